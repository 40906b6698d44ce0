"""Read the log for the checker and the faults: all records, end offsets, and the workers' committed offsets."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from eventlog import client
from schemas.kafka_access import KafkaAccess
from schemas.record import Record, record_of
from tests.kits.ends import marks_of

_TIMEOUT_S = 10


def ends(bootstrap: str, topic: str) -> dict[int, int] | None:
    """The next offset of each partition; None while no broker answers."""
    consumer = _consumer(bootstrap, "unused")
    try:
        return {
            place.partition: consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)[1]
            for place in _all(consumer, topic)
        }
    except KafkaException:
        return None
    finally:
        consumer.close()


def is_in_sync(bootstrap: str, topic: str, replicas: int) -> bool:
    """Whether every partition has `replicas` replicas in sync."""
    consumer = _consumer(bootstrap, "unused")
    try:
        partitions = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions.values()
        return all(len(partition.isrs) == replicas for partition in partitions)
    except KafkaException:
        return False
    finally:
        consumer.close()


def committed(bootstrap: str, topic: str, group: str) -> dict[int, int] | None:
    """The group's committed offset by partition, 0 if there is none; None while no broker answers."""
    consumer = _consumer(bootstrap, group)
    try:
        found = consumer.committed(_all(consumer, topic), timeout=_TIMEOUT_S)
    except KafkaException:
        return None
    finally:
        consumer.close()
    return {place.partition: max(place.offset, 0) for place in found}


def has_passed(committed: Mapping[int, int] | None, ends: Mapping[int, int], *, by: int = 0) -> bool:
    """Whether each partition is committed up to `ends` plus `by` more records."""
    return committed is not None and all(committed[partition] >= end + by for partition, end in ends.items())


class LogReader:
    """Reads a topic on from its position: each record once, also over many calls."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        """Begins at the oldest record."""
        self._bootstrap = bootstrap
        self._topic = topic
        self._next: dict[int, int] = {}
        """The next offset by partition, as far as the partition has been read."""

    def read(self, *, within_s: float = 300) -> list[Record]:
        """The records that have not been returned yet, up to the present ends, in the order of partition and offset.

        Raises TimeoutError, KafkaException.
        """
        # Each time a new consumer: one that stays assigned answers a request for its offsets only after its pending
        # fetch, half a second later for each partition.
        consumer = _consumer(self._bootstrap, "unused")
        try:
            marks = {place.partition: marks_of(consumer, place) for place in _all(consumer, self._topic)}
            self._next = {partition: low for partition, (low, _) in marks.items()} | self._next
            ends = {partition: high for partition, (_, high) in marks.items() if self._next[partition] < high}
            return self._read(consumer, ends, within_s) if ends else []
        finally:
            consumer.close()

    def _read(self, consumer: Consumer, ends: Mapping[int, int], within_s: float) -> list[Record]:
        consumer.assign([TopicPartition(self._topic, partition, self._next[partition]) for partition in ends])
        found: list[Record] = []
        deadline = time.monotonic() + within_s
        while missing := sum(max(0, end - self._next[partition]) for partition, end in ends.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"read {len(found)} records of {self._topic}, {missing} are missing")
            for message in consumer.consume(min(2000, missing), timeout=1.0):
                if error := message.error():
                    raise KafkaException(error)
                record = _record(self._topic, message)
                self._next[record.partition] = record.offset + 1
                found.append(record)
        return sorted(found, key=lambda record: (record.partition, record.offset))


def read_all(bootstrap: str, topic: str, *, within_s: float = 300) -> list[Record]:
    """All records in the order of partition and offset. Raises TimeoutError, KafkaException."""
    return LogReader(bootstrap, topic).read(within_s=within_s)


def _record(topic: str, message: Message) -> Record:
    partition, offset, headers = message.partition(), message.offset(), message.headers()
    pairs = headers.items() if isinstance(headers, dict) else headers or []
    return record_of(
        topic,
        -1 if partition is None else partition,
        -1 if offset is None else offset,
        _bytes(message.key()),
        _bytes(message.value()),
        tuple((name, _bytes(text) or b"") for name, text in pairs),
        message.timestamp()[1] / 1000,
    )


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _consumer(bootstrap: str, group: str) -> Consumer:
    return client.consumer(KafkaAccess(bootstrap), group=group)


def _all(consumer: Consumer, topic: str) -> list[TopicPartition]:
    found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
    return [TopicPartition(topic, partition) for partition in found.partitions]
