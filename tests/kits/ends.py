"""The offsets of a partition, also for a topic created a moment ago, and the records up to the ends."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

_TIMEOUT_S = 30.0
_READ_WITHIN_S = 60.0
_NOT_YET = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
)
"""A broker or the client returns these while it creates the partitions of a topic that the cluster has accepted."""


def marks_of(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """The offsets of the partition's oldest and of its next record.

    Retries for 10 s while the topic is created. Raises KafkaException.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return low, high


def end_of(consumer: Consumer, place: TopicPartition) -> int:
    """The offset of the partition's next record, as `marks_of` reads it."""
    return marks_of(consumer, place)[1]


def read_to_end(consumer: Consumer, topic: str, starts: Mapping[int, int]) -> list[Message]:
    """The records from these offsets by partition to the present ends, in the order of partition and offset.

    All partitions are read at once: a consumer that is moved from one to the next waits half a second for each.
    """
    ends = {partition: end_of(consumer, TopicPartition(topic, partition)) for partition in starts}
    unread = {partition for partition, start in starts.items() if start < ends[partition]}
    consumer.assign([TopicPartition(topic, partition, starts[partition]) for partition in unread])
    found: list[Message] = []
    deadline = time.monotonic() + _READ_WITHIN_S
    while unread:
        assert time.monotonic() < deadline, f"{topic}: read {len(found)} records, partitions {unread} have more"
        if (message := consumer.poll(1.0)) is None:
            continue
        assert message.error() is None, message.error()
        partition, offset = message.partition() or 0, message.offset() or 0
        if offset < ends[partition]:
            found.append(message)
        if offset + 1 >= ends[partition]:
            unread.discard(partition)
    return sorted(found, key=lambda message: (message.partition() or 0, message.offset() or 0))
