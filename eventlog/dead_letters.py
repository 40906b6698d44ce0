"""The dead-letter topic's producer: what the worker can't apply goes to `billing.dead`, before the ledger says so."""

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
    """Where a dead letter stands on the dead-letter topic."""

    partition: int
    offset: int


class DeadLetterPublisher:
    """Appends to the dead-letter topic and waits until every replica has it. Not for concurrent use."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "billing-dead-letters",
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                # As Java and aiokafka hash keys; librdkafka's default would put a customer elsewhere.
                "partitioner": "murmur2_random",
                "message.max.bytes": MAX_DEAD_LETTER_BYTES,
                "delivery.timeout.ms": _DELIVERY_TIMEOUT_S * 1000,
                "linger.ms": 5,
            }
        )

    async def publish(self, letter: DeadLetter) -> RecordPosition:
        """Appends one letter. Raises LogUnavailable when Kafka did not take it within ten seconds."""
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
        """Sends what is left, bounded."""
        self._producer.flush(_DELIVERY_TIMEOUT_S)
