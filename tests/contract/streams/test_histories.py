"""behaviours.md D1 and D2 on the real store: whole histories through `process`, in any order, with repetitions.

Each history is run for two customers of one database: as it happened, and as it was delivered. Then all timers fire.
Both must have the same rows in the end, except for their ids, and the second must send no mail that the first did not.

`BILLING_HISTORIES=5000` sets the number of examples; `pytest -s` shows how many were run.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from local.stripe.builder import Json
from schemas.kafka_access import KafkaAccess
from schemas.record import Record, RecordHeaders, Source, record_of
from schemas.state import derived_id
from schemas.timer import timer_event
from schemas.verdict import Applied, Dead, Duplicate, Stale, Waiting
from sinks.postgres.loading import SHAPES
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.kits.rulekit import CONFIG, mail_counts
from tests.unit.streams.rules import test_histories as subscriptions
from tests.unit.streams.rules import test_payment_histories as payments

Timer = next(kind for kind in SHAPES if kind.__name__ == "Timer")

EXAMPLES = int(os.environ.get("BILLING_HISTORIES", "60"))
"""Examples for each kind of history. An example is about sixty transactions."""

# The ids in an event that belong to this run only; prices and products are shared.
_OWN_ID = re.compile(r'"((?:cus|sub|in|evt|cs|user|ch|pi|pm|re|dp|si|card|inpay|il)_)([^"]*)"')

# The rows of one run, selected by its own ids to keep two runs apart.
_EPOCH = datetime.fromtimestamp(0, UTC)
_ROWS = """
SELECT 'customer', to_jsonb(t) FROM billing.customers t WHERE customer_id LIKE $1
UNION ALL SELECT 'organization', to_jsonb(t) - 'access_version' FROM billing.organizations t WHERE customer_id LIKE $1
UNION ALL SELECT 'user', to_jsonb(t) FROM billing.users t WHERE user_id LIKE $1 OR user_id = ANY($2)
UNION ALL SELECT 'membership', to_jsonb(t) FROM billing.memberships t WHERE organization_id = ANY($2)
UNION ALL SELECT 'subscription', to_jsonb(t) FROM billing.subscriptions t WHERE customer_id LIKE $1
UNION ALL SELECT 'payment', to_jsonb(t) FROM billing.payments t WHERE customer_id LIKE $1
UNION ALL SELECT 'payment method', to_jsonb(t) FROM billing.payment_methods t WHERE payment_method_id LIKE $1
UNION ALL SELECT 'dispute', to_jsonb(t) FROM billing.disputes t WHERE dispute_id LIKE $1
"""
_MAILS = "SELECT email_key FROM billing.emails WHERE event_id = ANY($1)"
_LEDGER = "SELECT count(*) FROM billing.events WHERE event_id = ANY($1) AND outcome IN ('applied', 'stale')"


@dataclass(slots=True)
class HistoryRun:
    """One run of a history, with ids that no other run has."""

    tag: str
    events: list[str] = field(default_factory=list)
    """The ids of all events so far, timers included."""
    names: dict[str, str] = field(default_factory=dict)
    """A readable name for each derived id."""

    def of(self, event: Json) -> Json:
        """The event with the ids of this run. The tag comes first after the prefix, so that ids compare as before."""
        own: Json = orjson.loads(_OWN_ID.sub(rf'"\g<1>{self.tag}\g<2>"', orjson.dumps(event).decode()))
        for prefix, rest in _OWN_ID.findall(orjson.dumps(own).decode()):
            for kind in ("org", "usr", "pay"):
                self.names[derived_id(kind, "", prefix + rest)] = f"{kind} of {prefix}{rest}"
        return own

    def plain(self, text: str) -> str:
        """The text without the ids of this run."""
        for derived, name in self.names.items():
            text = text.replace(derived, name)
        return text.replace(self.tag, "")


class HistoryRunner:
    """The worker's `process` on a real store, with its own event loop."""

    def __init__(self, url: str, bootstrap: str, topic: str) -> None:
        self._runner = asyncio.Runner()
        self._store = self._runner.run(Store.connect(SecretStr(url), pool_size=1))
        self._connection: asyncpg.Connection[Any] = self._runner.run(asyncpg.connect(url, timeout=30))
        self._letters = DeadLetterPublisher(KafkaAccess(bootstrap), topic)
        self._offsets = itertools.count()
        self._lives = itertools.count()
        self._processor = Processor(
            store=self._store,
            dead_letters=self._letters,
            rules=RULES,
            config=CONFIG,
            group="test.worker",
            code_version="1",
        )

    def close(self) -> None:
        self._letters.close()
        self._runner.run(self._connection.close(timeout=30))
        self._runner.run(self._store.close())
        self._runner.close()

    def live(self, events: Sequence[Json], sizes: Sequence[int]) -> tuple[HistoryRun, list[str], set[str]]:
        """Process the events in batches of these sizes, in turn, and fire all timers. Returns rows and mails."""
        return self._runner.run(self._live(events, sizes))

    async def _live(self, events: Sequence[Json], sizes: Sequence[int]) -> tuple[HistoryRun, list[str], set[str]]:
        life = HistoryRun(f"t{next(self._lives):07d}x")
        own_events = iter([life.of(event) for event in events])
        for size in itertools.cycle(sizes):
            if not (batch := list(itertools.islice(own_events, size))):
                break
            await self._process_batch(life, batch)
        await self._retry(life)
        for _ in range(100):
            if not (due := await self._due(life)):
                break
            await self._process_batch(life, [due])
        else:
            pytest.fail("timers without end")
        return life, await self._rows(life), await self._mails(life)

    async def _process_batch(self, life: HistoryRun, batch: Sequence[Json]) -> None:
        life.events += [event["id"] for event in batch]
        for event, verdict in zip(batch, await self._process(batch), strict=True):
            assert not isinstance(verdict, Dead), f"{event['type']}: {verdict}"
            assert isinstance(verdict, Applied | Duplicate | Stale | Waiting)

    async def _retry(self, life: HistoryRun) -> None:
        """Process waiting events again, as their timers would, until none waits."""
        query = "SELECT payload FROM billing.events WHERE event_id = ANY($1) AND outcome = 'waiting' ORDER BY event_id"
        before = -1
        while waiting := await self._connection.fetch(query, life.events):
            assert len(waiting) != before, f"never settles: {waiting[0]['payload'][:300]}"
            before = len(waiting)
            await self._process_batch(life, [orjson.loads(row["payload"]) for row in waiting])

    async def _due(self, life: HistoryRun) -> Json | None:
        """The event of the pending timer with the earliest due time, as the scheduler would append it."""
        shape = SHAPES[Timer]
        query = (
            f"SELECT {shape.selected} FROM billing.timers AS t WHERE status = 'pending' AND kind <> 'retry' "
            "AND (customer_id LIKE $1 OR subject LIKE $1) ORDER BY due_at, timer_key LIMIT 1"
        )
        found = await self._connection.fetchrow(query, f"%{life.tag}%")
        return timer_event(shape.row(found)) if found is not None else None

    async def _process(self, batch: Sequence[Json]) -> list[Any]:
        return await self._processor.process([self._record(event) for event in batch])

    def _record(self, event: Json) -> Record:
        source = Source.TIMER if event["type"].startswith("timer.") else Source.STRIPE
        headers = RecordHeaders(event["id"], event["type"], source, "", False, "", "default", _EPOCH)
        return record_of("events", 0, next(self._offsets), b"cus", orjson.dumps(event), headers.encode(), 0.0)

    async def _rows(self, life: HistoryRun) -> list[str]:
        found = await self._connection.fetch(_ROWS, f"%{life.tag}%", list(life.names))
        return sorted(life.plain(f"{kind} {row}") for kind, row in found)

    async def _mails(self, life: HistoryRun) -> set[str]:
        """The keys of the run's mails. Asserts that each event of the run is applied or stale."""
        done = await self._connection.fetchval(_LEDGER, life.events)
        assert done == len(set(life.events))
        return {life.plain(row["email_key"]) for row in await self._connection.fetch(_MAILS, life.events)}


@pytest.fixture
def bench(migrated_url: str, kafka_bootstrap: str, topic_prefix: str) -> Iterator[HistoryRunner]:
    opened = HistoryRunner(migrated_url, kafka_bootstrap, f"{topic_prefix}.dead")
    yield opened
    opened.close()


_SIZES = st.lists(st.integers(1, 8), min_size=1, max_size=4)


@pytest.mark.timeout(max(240, EXAMPLES * 4))
@pytest.mark.parametrize("kind", ["subscriptions", "payments", "methods"])
def test_D2_any_order_ends_in_the_same_rows_and_sends_no_more_mail(bench: HistoryRunner, kind: str) -> None:
    deliveries: st.SearchStrategy[Any] = {
        "subscriptions": subscriptions.deliveries,
        "payments": payments.payments,
        "methods": payments.methods,
    }[kind]()
    count = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),  # an example takes as long as the machine is busy
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    @given(deliveries, _SIZES, _SIZES)
    def check(delivery: Any, sizes: list[int], other_sizes: list[int]) -> None:
        nonlocal count
        count += 1
        _, rows, mails = bench.live(delivery.history, sizes)
        _, other_rows, other_mails = bench.live(delivery.delivered, other_sizes)
        assert rows
        assert other_rows == rows
        assert mail_counts(other_mails) <= mail_counts(mails)

    check()
    print(f"{count} histories of {kind}, each in its own order and in another")  # noqa: T201  # the number that issue 4 requires
