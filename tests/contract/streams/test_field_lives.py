"""Each further billing life on the real store, in an order of its own and with repeats."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import asyncpg
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from schemas.kafka_access import KafkaAccess
from schemas.known import Known
from schemas.record import Source
from schemas.references import References
from sinks.postgres.loading import SHAPES
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.field.harness import CONFIG, record
from tests.field.lives import lives, seen
from tests.kits.storekit import loaded


async def test_the_store_ends_as_stripe_does(migrated_url: str, kafka_bootstrap: str, topic_prefix: str) -> None:
    store = await Store.connect(SecretStr(migrated_url), pool_size=1)
    letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    processor = Processor(
        store=store, dead_letters=letters, rules=RULES, config=CONFIG, group="test.worker", code_version="1",
        clock=lambda: datetime.now(UTC),
    )  # fmt: skip
    connection: asyncpg.Connection[Any] = await asyncpg.connect(migrated_url, timeout=10)
    tables = [*(shape.table.fullname for shape in SHAPES.values()), "billing.events", "billing.emails"]
    references = References(
        customers={("", "cus_1")}, payments={("", "in_1")}, users={("", "user_1")}, subscriptions={("", "sub_1")}
    )
    try:
        for life in lives():
            await connection.execute(f"TRUNCATE {', '.join(tables)}")
            chance = random.Random(life.name)
            events = [*chance.sample(life.events, len(life.events)), *chance.choices(life.events, k=2)]
            for first in range(0, len(events), 3):
                await processor.process([record(event, Source.STRIPE) for event in events[first : first + 3]])
            # What waited for another event is tried again, as the waiting room does by time.
            again = [one for one in events if one["id"] in await _ids(connection, "waiting")]
            await processor.process([record(event, Source.REPLAY) for event in again])
            assert await _ids(connection, "waiting") | await _ids(connection, "dead") == set(), life.name
            known = Known(CONFIG, await loaded(store, references))
            assert seen(known, life) == life.expected, (life.name, [event["id"] for event in events])
            queued = [row["template"] for row in await connection.fetch("SELECT template FROM billing.emails")]
            too_many = {one: queued.count(one) for one, most in life.mails.items() if queued.count(one) > most}
            assert too_many == {}, life.name
    finally:
        await connection.close(timeout=5)
        letters.close()
        await store.close()


async def _ids(connection: asyncpg.Connection[Any], outcome: str) -> set[str]:
    rows = await connection.fetch("SELECT event_id FROM billing.events WHERE outcome = $1", outcome)
    return {row["event_id"] for row in rows}
