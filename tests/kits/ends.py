"""The end offset of a partition, also for a topic created a moment ago."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

_TIMEOUT_S = 10.0
_NOT_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART)
"""A broker returns these while it creates the partitions of a topic that the cluster has accepted."""


def end_of(consumer: Consumer, place: TopicPartition) -> int:
    """The offset of the partition's next record. Retries for 10 s while the topic is created. Raises KafkaException."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            end: int = consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)[1]
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return end
