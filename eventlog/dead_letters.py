"""Publishes events that the worker can't apply to `billing.dead`, before the ledger records them as dead."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from confluent_kafka import KafkaError, Message

from eventlog import client
from schemas.dead_letter import DeadLetter
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.record import MAX_DEAD_LETTER_BYTES


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

        what = f"the dead-letter topic did not take event {letter.event_id}"
        with client.log_errors(self._access, what):
            self._producer.produce(
                self._topic,
                key=letter.key,
                value=letter.value,
                headers=list(letter.encode_headers()),
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
