"""Where a partition ends, asked also of a topic that was made a moment ago."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

_TIMEOUT_S = 10.0
_NOT_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART)
"""A broker answers so while it makes the partitions of a topic that the cluster has agreed on."""


def end_of(consumer: Consumer, place: TopicPartition) -> int:
    """The offset that the partition's next record gets. Raises KafkaException."""
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
