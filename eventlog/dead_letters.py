"""Publishes events that the worker can't apply to `billing.dead`, before the ledger records them as dead."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from confluent_kafka import KafkaError, Message

from eventlog import client
from schemas.dead_letter import DeadLetter
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.record import MAX_DEAD_LETTER_BYTES, Headers

_RECORD_OVERHEAD = 64 * 1024
"""Bytes of the dead-letter topic's limit that are left for Kafka's own fields of a record and its batch."""


@dataclass(frozen=True, slots=True)
class RecordPosition:
    """The position of a dead letter on the dead-letter topic."""

    partition: int
    offset: int


class DeadLetterPublisher:
    """Appends to the dead-letter topic and waits until all in-sync replicas have the letter. Not for concurrent use."""

    def __init__(self, access: KafkaAccess, topic: str) -> None:
        self._access = access
        self._topic = topic
        self._producer = client.producer(
            access, client_id="billing-dead-letters", properties={"message.max.bytes": MAX_DEAD_LETTER_BYTES}
        )

    async def publish(self, letter: DeadLetter) -> RecordPosition:
        """Appends one letter and returns its position. Raises LogUnavailable if unconfirmed after 10 s."""
        return await asyncio.to_thread(self._publish, letter)

    def _publish(self, letter: DeadLetter) -> RecordPosition:
        reports: list[RecordPosition | KafkaError | None] = []

        def report(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is not None or partition is None or offset is None:
                reports.append(error)
            else:
                reports.append(RecordPosition(partition, offset))

        value, headers = letter.value, letter.encode_headers()
        if _size(letter.key, value, headers) > MAX_DEAD_LETTER_BYTES - _RECORD_OVERHEAD:
            # Only a foreign producer's compressed record can be this large. The original stays on its topic.
            value, headers = None, letter.bare_headers()
        what = f"the dead-letter topic did not take event {letter.event_id}"
        with client.log_errors(self._access, what):
            self._producer.produce(
                self._topic,
                key=letter.key,
                value=value,
                headers=list(headers),
                on_delivery=report,
            )
            self._producer.flush(client.TIMEOUT_S + 1)
        found = reports[0] if reports else None
        if isinstance(found, RecordPosition):
            return found
        raise LogUnavailable(f"{what}: {client.cause_of(self._access, found or 'no answer')}")

    def close(self) -> None:
        """Sends the letters still queued, for at most ten seconds."""
        self._producer.flush(client.TIMEOUT_S)


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    named = sum(len(name.encode(errors="replace")) + len(text or b"") + 10 for name, text in headers)
    return len(key or b"") + len(value or b"") + named
