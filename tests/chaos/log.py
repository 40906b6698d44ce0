"""Read the log for the checker and the faults: all records, end offsets, and the workers' committed offsets."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from eventlog import client
from schemas.kafka_access import KafkaAccess
from schemas.record import Record, record_of

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


def read_all(bootstrap: str, topic: str, *, within_s: float = 300) -> list[Record]:
    """All records in the order of partition and offset. Raises TimeoutError, KafkaException."""
    consumer = _consumer(bootstrap, "unused")
    try:
        places = _all(consumer, topic)
        marks = {place.partition: consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S) for place in places}
        wanted = sum(high - low for low, high in marks.values())
        consumer.assign([TopicPartition(topic, partition, low) for partition, (low, _) in marks.items()])
        found: list[Record] = []
        deadline = time.monotonic() + within_s
        while len(found) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"read {len(found)} of {wanted} records of {topic}")
            for message in consumer.consume(min(2000, wanted - len(found)), timeout=1.0):
                if error := message.error():
                    raise KafkaException(error)
                partition, offset, value = message.partition(), message.offset(), message.value()
                headers = message.headers()
                pairs = headers.items() if isinstance(headers, dict) else headers or []
                found.append(
                    record_of(
                        topic,
                        -1 if partition is None else partition,
                        -1 if offset is None else offset,
                        _bytes(message.key()),
                        _bytes(value),
                        tuple((name, _bytes(text) or b"") for name, text in pairs),
                        message.timestamp()[1] / 1000,
                    )
                )
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        consumer.close()


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _consumer(bootstrap: str, group: str) -> Consumer:
    return client.consumer(KafkaAccess(bootstrap), group=group)


def _all(consumer: Consumer, topic: str) -> list[TopicPartition]:
    found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
    return [TopicPartition(topic, partition) for partition in found.partitions]
