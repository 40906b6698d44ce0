"""Random lives of the simulated Stripe on the real store: its tables equal Stripe's objects (D2, D7)."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from local.stripe.simulator.books import AccountSettings
from local.stripe.simulator.lives import random_steps
from local.stripe.simulator.stripe import SimulatedStripe
from schemas.errors import Conflict
from schemas.kafka_access import KafkaAccess
from schemas.record import Source
from schemas.state import Row, Timer
from schemas.statuses import TimerStatus
from schemas.timer import timer_event
from sinks.postgres.loading import SHAPES
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.field.harness import record
from tests.kits.lifekit import CONFIG, Course, is_sent, open_disagreements
from tests.kits.paymentkit import AT_ONCE as AT_ONCE_KINDS
from tests.oracle.stripe_books import disagreements

LIVES = int(os.environ.get("BILLING_STORED_LIVES", "12"))
AT_ONCE = 50
"""Events of one batch."""


@pytest.fixture
async def processor(migrated_url: str, kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[Processor]:
    store = await Store.connect(SecretStr(migrated_url), pool_size=1)
    letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    yield Processor(
        store=store,
        dead_letters=letters,
        rules=RULES,
        config=CONFIG,
        group="test.worker",
        code_version="1",
        clock=lambda: datetime.now(UTC),
    )
    letters.close()
    await store.close()


def _course(number: int) -> Course:
    chance = random.Random(number)
    return Course(
        random_steps(chance, chance.randrange(4, 12)),
        AccountSettings(after_retries=chance.choice(["cancel", "unpaid", "past_due"])),
        shape=chance.choice(["new", "old", "mixed"]),
        delivery=chance.choice(["ordered", "shuffled", "lost"]),
        order=number,
    )


async def test_the_stored_tables_equal_stripes_objects(processor: Processor, migrated_url: str) -> None:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(migrated_url, timeout=30)
    try:
        for number in range(LIVES):
            course = _course(number)
            for table in [*(shape.table.fullname for shape in SHAPES.values()), "billing.events", "billing.emails"]:
                await connection.execute(f"TRUNCATE {table}")
            stripe = course.live()
            events = [event for event in course.deliver(stripe) if is_sent(event, course.shape)]
            try:
                for first in range(0, len(events), AT_ONCE):
                    batch = [record(event, Source.STRIPE) for event in events[first : first + AT_ONCE]]
                    await processor.process(batch)
                await _retry_waiting(processor, connection, events)
                await _fire(processor, connection)
            except Conflict as error:
                found = [f"Conflict: {error}"]
            else:
                found = await _found(connection, stripe)
            asked = await connection.fetch("SELECT path FROM billing.stripe_calls WHERE purpose = 'settle a tie'")
            tied = {row["path"].rpartition("/")[2] for row in asked}
            assert open_disagreements(found, tied) == [], course
    finally:
        await connection.close(timeout=30)


async def _retry_waiting(
    processor: Processor, connection: asyncpg.Connection[Any], events: Sequence[dict[str, Any]]
) -> None:
    """Append the waiting events again, as their timers would, until no further one is applied."""
    waiting: set[str] = set()
    while True:
        rows = await connection.fetch("SELECT event_id FROM billing.events WHERE outcome = 'waiting'")
        before, waiting = waiting, {row["event_id"] for row in rows}
        if waiting in (before, set()):
            return
        await processor.process([record(event, Source.REPLAY) for event in events if event["id"] in waiting])


async def _fire(processor: Processor, connection: asyncpg.Connection[Any]) -> None:
    """Append the events of timers that complete a state, as the scheduler does, each once and in order of due time."""
    fired = set[tuple[str, datetime]]()
    while True:
        pending = [
            timer
            for timer in await _rows(connection, Timer)
            if timer.status is TimerStatus.PENDING
            and timer.kind in AT_ONCE_KINDS
            and (timer.timer_key, timer.due_at) not in fired
        ]
        if not pending:
            return
        timer = min(pending, key=lambda one: (one.due_at, one.timer_key))
        fired.add((timer.timer_key, timer.due_at))
        await processor.process([record(timer_event(timer), Source.TIMER)])


async def _found(connection: asyncpg.Connection[Any], stripe: SimulatedStripe) -> list[str]:
    rows = {kind: await _rows(connection, kind) for kind in SHAPES}
    found = [line for books in stripe.accounts.values() for line in disagreements(rows.__getitem__, books, CONFIG)]
    dead = await connection.fetch("SELECT type, reason FROM billing.events WHERE outcome = 'dead'")
    return found + [f"dead: {row['type']} {row['reason']}" for row in dead]


async def _rows(connection: asyncpg.Connection[Any], kind: type[Row]) -> list[Any]:
    shape = SHAPES[kind]
    return [
        shape.row(found)
        for found in await connection.fetch(f"SELECT {shape.selected} FROM {shape.table.fullname} AS t")
    ]
