"""Each further billing life on the real store, in an order of its own and with repeats."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from local.stripe.builder import ApiShape, Json
from schemas.kafka_access import KafkaAccess
from schemas.known import Known
from schemas.record import Source
from schemas.references import References
from sinks.postgres.loading import SHAPES
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.field.further import kit as further
from tests.field.further import seconds
from tests.field.harness import CONFIG, record
from tests.field.lives import lives, seen
from tests.kits.storekit import loaded


@dataclass(frozen=True, slots=True)
class Desk:
    """The worker's `process` on a real store, emptied between lives."""

    store: Store
    processor: Processor
    connection: asyncpg.Connection[Any]

    async def empty(self) -> None:
        tables = [*(shape.table.fullname for shape in SHAPES.values()), "billing.events", "billing.emails"]
        await self.connection.execute(f"TRUNCATE {', '.join(tables)}")

    async def process(self, events: Sequence[Json], batch: int) -> None:
        for first in range(0, len(events), batch):
            await self.processor.process([record(event, Source.STRIPE) for event in events[first : first + batch]])
        # What waited for another event is tried again, as the waiting room does by time.
        again = [one for one in events if one["id"] in await self.ids("waiting")]
        await self.processor.process([record(event, Source.REPLAY) for event in again])

    async def ids(self, outcome: str) -> set[str]:
        rows = await self.connection.fetch("SELECT event_id FROM billing.events WHERE outcome = $1", outcome)
        return {row["event_id"] for row in rows}


@pytest.fixture
async def desk(migrated_url: str, kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[Desk]:
    store = await Store.connect(SecretStr(migrated_url), pool_size=1)
    letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    processor = Processor(
        store=store, dead_letters=letters, rules=RULES, config=CONFIG, group="test.worker", code_version="1",
        clock=lambda: datetime.now(UTC),
    )  # fmt: skip
    connection: asyncpg.Connection[Any] = await asyncpg.connect(migrated_url, timeout=30)
    yield Desk(store, processor, connection)
    await connection.close(timeout=30)
    letters.close()
    await store.close()


async def test_the_store_ends_as_stripe_does(desk: Desk) -> None:
    references = References(
        customers={("", "cus_1")}, payments={("", "in_1")}, users={("", "user_1")}, subscriptions={("", "sub_1")}
    )
    for life in lives():
        await desk.empty()
        chance = random.Random(life.name)
        events = [*chance.sample(life.events, len(life.events)), *chance.choices(life.events, k=2)]
        await desk.process(events, batch=3)
        assert await desk.ids("waiting") | await desk.ids("dead") == set(), life.name
        known = Known(CONFIG, await loaded(desk.store, references))
        assert seen(known, life) == life.expected, (life.name, [event["id"] for event in events])
        queued = [row["template"] for row in await desk.connection.fetch("SELECT template FROM billing.emails")]
        too_many = {one: queued.count(one) for one, most in life.mails.items() if queued.count(one) > most}
        assert too_many == {}, life.name


async def test_D2_the_store_orders_what_shares_a_second(desk: Desk) -> None:
    """One event per transaction, so that what orders them is read back from the tables."""
    references = References(
        customers={("", "cus_1")},
        disputes={("", "dp_1")},
        payments={("", "in_1")},
        subscriptions={("", "sub_1")},
        users={("", "user_1"), ("", "user_2")},
    )
    for life in seconds.lives(ApiShape.NEW):
        if life.needs_key:
            continue
        for order in further.orders(life, 1):
            await desk.empty()
            await desk.process(order, batch=1)
            known = Known(CONFIG, await loaded(desk.store, references))
            assert further.seen(known, life) == life.expected, (life.name, [event["id"] for event in order])
