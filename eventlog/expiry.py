"""Finds unread records that Kafka is going to delete: those older than half of the topic's retention."""

from __future__ import annotations

from datetime import datetime, timedelta

from confluent_kafka import KafkaException, TopicPartition

from eventlog import client
from eventlog.groups import Groups
from eventlog.topic_settings import describe
from eventlog.topics import EVENTS_KEPT_DAYS
from schemas.settings import Settings


def retention_of(settings: Settings) -> timedelta | None:
    """Returns how long Kafka keeps events, None without a limit. If that is unreadable: what `billing topics` sets."""
    found = describe(settings.kafka, [settings.events_topic]).get(settings.events_topic)
    kept = (found.config or {}).get("retention.ms") if found is not None else None
    if kept is None:
        return timedelta(days=EVENTS_KEPT_DAYS)
    return client.kept_for(int(kept))


def old_unread(settings: Settings, now: datetime) -> int:
    """Returns the largest number of unread records, over all groups, that are older than half of the retention.

    Counts committed offsets, so no worker has to run. Blocks. Raises LogUnavailable.
    """
    kept = retention_of(settings)
    if kept is None:
        return 0
    half_ago = client.millis_of(now - kept / 2)
    groups, topic = Groups(settings.kafka), settings.events_topic
    reader = client.consumer(settings.kafka, group=f"{settings.topic_prefix}.worker")
    try:
        with client.log_errors(settings.kafka, topic):
            partitions = client.cluster_metadata(reader, settings.kafka, topic).topics[topic].partitions
            places = [TopicPartition(topic, partition, half_ago) for partition in partitions]
            # -1: all records are older, so the end of the log.
            found = reader.offsets_for_times(places, timeout=client.TIMEOUT_S) if places else []
            firsts = {place.partition: place.offset for place in found if place.error is None}
            bounds: dict[int, tuple[int, int]] = {}
            for partition in firsts:
                bounds[partition] = client.watermarks(reader, TopicPartition(topic, partition))
            if failed := [place.error for place in found if place.error is not None]:
                raise KafkaException(failed[0])
    finally:
        reader.close()
    most = 0
    worker = f"{settings.topic_prefix}.worker"
    names = groups.names(settings.topic_prefix)
    # Without any group of workers, nothing has been read: the group of all streams will.
    for group in names if any(name.startswith(worker) for name in names) else [*names, worker]:
        committed = groups.committed(group, topic, firsts)
        most = max(
            most,
            sum(
                max(0, (end if firsts[partition] < 0 else firsts[partition]) - max(committed.get(partition, low), low))
                for partition, (low, end) in bounds.items()
            ),
        )
    return most
