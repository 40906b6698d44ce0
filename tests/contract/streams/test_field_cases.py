"""Each field case through `process` on the real store, in one batch, and then all timers that are due."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from eventlog.dead_letters import DeadLetterPublisher
from schemas.kafka_access import KafkaAccess
from schemas.known import Known
from schemas.record import Source
from schemas.state import ROW_TYPES, Timer
from sinks.postgres.loading import SHAPES
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES
from tests.field.harness import CONFIG, NOW, FieldCase, FieldMail, Json, Played, due, record, registered, steps


@dataclass(slots=True)
class StoredWorld:
    """One database, emptied between the cases, and the worker's `process` on it."""

    processor: Processor
    connection: asyncpg.Connection[Any]

    async def play(self, field_case: FieldCase) -> Played:
        for table in [
            *(shape.table.fullname for shape in SHAPES.values()),
            "billing.events",
            "billing.emails",
            "billing.erasures",
        ]:
            await self.connection.execute(f"TRUNCATE {table}")
        for step, source in steps(field_case):
            await self._process(step, source)
            while (fired := due(await self._rows(Timer))) is not None:
                await self._process([fired], Source.TIMER)
        rows = [row for kind in ROW_TYPES for row in await self._rows(kind)]
        ledger = await self.connection.fetch("SELECT event_id, outcome, reason FROM billing.events")
        return Played(
            known=Known(CONFIG, rows),
            mails=[
                FieldMail(
                    row["email_key"], row["template"], row["customer_id"], row["recipient"], orjson.loads(row["data"])
                )
                for row in await self.connection.fetch("SELECT * FROM billing.emails")
            ],
            outcomes={row["event_id"]: row["outcome"] for row in ledger},
            reasons={row["event_id"]: row["reason"] for row in ledger if row["reason"]},
        )

    async def _process(self, events: Sequence[Json], source: Source) -> None:
        await self.processor.process([record(event, source) for event in events])

    async def _rows(self, kind: type[Any]) -> list[Any]:
        shape = SHAPES[kind]
        query = f"SELECT {shape.selected} FROM {shape.table.fullname} AS t"
        return [shape.row(found) for found in await self.connection.fetch(query)]


@pytest.fixture
async def world(migrated_url: str, kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[StoredWorld]:
    store = await Store.connect(SecretStr(migrated_url), pool_size=1)
    connection: asyncpg.Connection[Any] = await asyncpg.connect(migrated_url, timeout=30)
    letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    processor = Processor(
        store=store,
        dead_letters=letters,
        rules=RULES,
        config=CONFIG,
        group="test.worker",
        code_version="1",
        clock=lambda: NOW,
    )
    yield StoredWorld(processor, connection)
    letters.close()
    await connection.close(timeout=30)
    await store.close()


async def test_each_field_case_on_the_real_store(world: StoredWorld) -> None:
    """One test for all cases: a database and its migrations take longer than a case."""
    failed = {}
    for field_case in registered():
        try:
            field_case.check(await world.play(field_case))
        except AssertionError as error:
            failed[str(field_case)] = str(error)[:300]
    assert failed == {}
