"""The notes stream on real stores, for tests of replays: consumes the log step by step as the worker does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer
from pydantic import SecretStr

from eventlog import client
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.entry import headers_of
from eventlog.topics import ensure_topics
from recovery.replay.letters import ReplayReport, replay_letters
from schemas.kafka_access import KafkaAccess
from schemas.rate import RateLimit
from schemas.record import Headers, Record, record_of
from schemas.settings import Config, Settings
from schemas.verdict import Verdict
from sinks.postgres.dead_letter_index import DeadLetterIndex, IndexedLetter, LetterFilter
from sinks.postgres.store import Store
from streams.process import Processor
from tests.kits.ends import read_to_end
from tests.kits.notes import note_body, note_headers, notes
from tests.kits.storekit import fetch

OPEN = LetterFilter(statuses=("open",))


@dataclass
class ReplayKit:
    """Topics, tables and processor of one test. `consume` processes the records that were not consumed before."""

    settings: Settings
    processor: Processor
    producer: Producer
    consumed: dict[int, int]

    def send(self, event_id: str, user: str = "u1", *, headers: Headers = (), **fields: Any) -> None:
        """Append one event to the events topic as the gateway does."""
        named = [*note_headers(event_id).encode(), *headers]
        body = note_body(event_id, user, **fields)
        self.producer.produce(self.settings.events_topic, key=f"cus_{user}", value=body, headers=list(named))
        assert self.producer.flush(30) == 0

    def records(self) -> list[Record]:
        """All records of the events topic, partition by partition."""
        consumer = client.consumer(self.settings.kafka, group="none")
        topic = self.settings.events_topic
        try:
            messages = read_to_end(consumer, topic, dict.fromkeys(range(self.settings.partitions), 0))
        finally:
            consumer.close()
        return [
            record_of(topic, m.partition() or 0, m.offset() or 0, m.key(), m.value(), headers_of(m), 1.7e9)
            for m in messages
        ]

    async def consume(self, processor: Processor | None = None) -> dict[str, Verdict]:
        """Process the new records; return the last verdict on each event by id."""
        records = await asyncio.to_thread(self.records)
        fresh = [record for record in records if record.offset >= self.consumed.get(record.partition, 0)]
        verdicts = await (processor or self.processor).process(fresh)
        for record in fresh:
            self.consumed[record.partition] = record.offset + 1
        return {record.headers["event_id"]: verdict for record, verdict in zip(fresh, verdicts, strict=True)}

    @asynccontextmanager
    async def letters(self) -> AsyncIterator[DeadLetterIndex]:
        async with DeadLetterIndex.open(self.settings.database_url) as letters:
            yield letters

    async def find(self, wanted: LetterFilter = LetterFilter()) -> list[IndexedLetter]:  # noqa: B008  # frozen
        async with self.letters() as letters:
            return await letters.find(wanted)

    async def replay(self, wanted: LetterFilter = OPEN, rate: float | None = None) -> ReplayReport:
        async with self.letters() as letters:
            return await replay_letters(self.settings, letters, await letters.find(wanted), RateLimit(rate), "tester")

    async def rows(self, query: str) -> list[dict[str, Any]]:
        return await fetch(self.settings.database_url, query)

    async def trails(self) -> dict[str, str]:
        return {row["user_id"]: row["email"] for row in await self.rows("SELECT user_id, email FROM billing.users")}

    async def statuses(self) -> dict[str, list[str]]:
        """The statuses of the dead letters by event id, in log order."""
        rows = await self.rows('SELECT event_id, status FROM billing.dead_letters ORDER BY partition, "offset"')
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["event_id"], []).append(row["status"])
        return found


@asynccontextmanager
async def open_kit(bootstrap: str, url: str, prefix: str, settings: dict[str, Any]) -> AsyncIterator[ReplayKit]:
    """Open the kit: create topics and tables, and connect the processor."""
    made = Settings(
        kafka_bootstrap=bootstrap, database_url=SecretStr(url), topic_prefix=prefix, partitions=2, **settings
    )
    await asyncio.to_thread(ensure_topics, made)
    store = await Store.connect(made.database_url, pool_size=2)
    dead_letters = DeadLetterPublisher(KafkaAccess(bootstrap), made.dead_topic)
    processor = Processor(
        store=store,
        dead_letters=dead_letters,
        rules=dict(notes.rules),
        config=Config(),
        group=f"{prefix}.worker",
        code_version="1",
    )
    producer = client.producer(KafkaAccess(bootstrap), client_id="test")
    try:
        yield ReplayKit(made, processor, producer, {})
    finally:
        dead_letters.close()
        await store.close()
