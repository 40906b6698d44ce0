"""How far a consumer group is behind: what the log holds that the group has not committed."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, TopicPartition

_TIMEOUT_S = 10


def lag_of(bootstrap: str, group: str, topic: str) -> dict[int, int] | None:
    """Records behind, by partition. None while it can't be told: the coordinator is loading, or no broker answers."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 0}
    )
    try:
        found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
        places = [TopicPartition(topic, partition) for partition in found.partitions]
        committed = {place.partition: place.offset for place in consumer.committed(places, timeout=_TIMEOUT_S)}
        ends = {place.partition: consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S) for place in places}
    except KafkaException:
        return None
    finally:
        consumer.close()
    # Before its first commit a group begins at what is left of the log.
    return {partition: high - max(committed[partition], low) for partition, (low, high) in ends.items()}
