"""A processor of the notes stream on real stores, for tests that process records batch by batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from eventlog import client
from eventlog.dead_letters import DeadLetterPublisher
from schemas.kafka_access import KafkaAccess
from schemas.record import Record, record_of
from schemas.settings import Config
from sinks.postgres.store import Store
from streams.process import Processor
from tests.kits.ends import end_of, read_to_end
from tests.kits.notes import note_body, note_headers, notes
from tests.kits.storekit import fetch

TOPIC = "events"


@dataclass
class ProcessorKit:
    processor: Processor
    url: str
    bootstrap: str
    prefix: str

    async def rows(self, query: str) -> list[dict[str, Any]]:
        return await fetch(self.url, query)

    async def outcomes(self) -> dict[str, str]:
        rows = await self.rows("select event_id, outcome from billing.events order by event_id")
        return {row["event_id"]: row["outcome"] for row in rows}

    def letters_count(self) -> int:
        consumer = client.consumer(KafkaAccess(self.bootstrap), group=f"{self.prefix}.count")
        try:
            return end_of(consumer, TopicPartition(f"{self.prefix}.dead", 0))
        finally:
            consumer.close()

    def letters(self, count: int) -> list[Any]:
        """All dead letters. There are `count`: a letter is on its topic before its event is settled."""
        consumer = client.consumer(KafkaAccess(self.bootstrap), group=f"{self.prefix}.test")
        try:
            found = read_to_end(consumer, f"{self.prefix}.dead", {0: 0})
        finally:
            consumer.close()
        assert len(found) == count
        return found


@asynccontextmanager
async def open_processor(kafka_bootstrap: str, migrated_url: str, topic_prefix: str) -> AsyncIterator[ProcessorKit]:
    """Creates the topic of dead letters; the tables exist."""
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    for creation in admin.create_topics([NewTopic(f"{topic_prefix}.dead", 1, 1)]).values():
        creation.result(timeout=30)
    store = await Store.connect(SecretStr(migrated_url), pool_size=2)
    dead_letters = DeadLetterPublisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.dead")
    yield ProcessorKit(
        Processor(
            store=store,
            dead_letters=dead_letters,
            rules=notes.rules,
            config=Config(),
            group="test.worker",
            code_version="1",
        ),
        migrated_url,
        kafka_bootstrap,
        topic_prefix,
    )
    dead_letters.close()
    await store.close()


def note(event_id: str, offset: int, *, type_: str = "note.written", **fields: Any) -> Record:
    return raw(note_body(event_id, type_=type_, **fields), offset, event_id, type_)


def raw(value: bytes | None, offset: int, event_id: str = "evt_raw", type_: str = "note.written") -> Record:
    headers = note_headers(event_id, type_).encode()
    return record_of(TOPIC, 0, offset, b"cus_1", value, headers, 1_700_000_000.0)
