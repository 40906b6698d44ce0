"""Publishes events that the worker can't apply to `billing.dead`, before the ledger records them as dead."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from confluent_kafka import KafkaException, Message, Producer

from schemas.dead_letter import DeadLetter
from schemas.errors import LogUnavailable
from schemas.record import MAX_DEAD_LETTER_BYTES

_DELIVERY_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class RecordPosition:
    """The position of a dead letter on the dead-letter topic."""

    partition: int
    offset: int


class DeadLetterPublisher:
    """Appends to the dead-letter topic and waits until all in-sync replicas have the letter. Not for concurrent use."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "billing-dead-letters",
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                # As in Java and aiokafka. librdkafka's default would put a customer on another partition.
                "partitioner": "murmur2_random",
                "message.max.bytes": MAX_DEAD_LETTER_BYTES,
                "delivery.timeout.ms": _DELIVERY_TIMEOUT_S * 1000,
                "linger.ms": 5,
            }
        )

    async def publish(self, letter: DeadLetter) -> RecordPosition:
        """Appends one letter and returns its position. Raises LogUnavailable if unconfirmed after 10 s."""
        return await asyncio.to_thread(self._publish, letter)

    def _publish(self, letter: DeadLetter) -> RecordPosition:
        reports: list[RecordPosition | str] = []

        def report(error: object, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is not None or partition is None or offset is None:
                reports.append(str(error))
            else:
                reports.append(RecordPosition(partition, offset))

        try:
            self._producer.produce(
                self._topic,
                key=letter.key,
                value=letter.value,
                headers=list(letter.encode_headers()),
                on_delivery=report,
            )
            self._producer.flush(_DELIVERY_TIMEOUT_S + 1)
        except (KafkaException, BufferError) as error:
            raise LogUnavailable(f"the dead-letter topic did not take event {letter.event_id}: {error}") from error
        if reports and isinstance(reports[0], RecordPosition):
            return reports[0]
        raise LogUnavailable(f"the dead-letter topic did not take event {letter.event_id}: {reports or 'no answer'}")

    def close(self) -> None:
        """Sends the letters still queued, for at most ten seconds."""
        self._producer.flush(_DELIVERY_TIMEOUT_S)
