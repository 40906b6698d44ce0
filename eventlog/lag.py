"""The lag of a consumer group: records on the log that the group has not committed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import KafkaException, TopicPartition

from eventlog import client
from schemas.kafka_access import KafkaAccess


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """A group's position in one partition: the offset from which it reads after a restart, and the end of the log."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        return self.end - self.committed


class GroupPositions:
    """Reads one group's positions from the brokers over a connection that stays open. Does not join the group."""

    def __init__(self, access: KafkaAccess, group: str, topic: str, *, timeout_s: float = client.TIMEOUT_S) -> None:
        self._topic = topic
        self._timeout_s = timeout_s
        self._consumer = client.consumer(access, group=group)

    def read(self, partitions: Iterable[int] | None = None) -> dict[int, GroupPosition] | None:
        """Returns the positions by partition. None if the coordinator is loading or no broker answers."""
        try:
            if partitions is None:
                listed = self._consumer.list_topics(self._topic, timeout=self._timeout_s)
                partitions = listed.topics[self._topic].partitions
            wanted = [TopicPartition(self._topic, partition) for partition in partitions]
            if not wanted:
                return {}
            committed = {
                position.partition: position.offset for position in self._consumer.committed(wanted, self._timeout_s)
            }
            found = {}
            for position in wanted:
                low, high = self._consumer.get_watermark_offsets(position, timeout=self._timeout_s)
                # Before its first commit a group begins at the oldest record of the log.
                found[position.partition] = GroupPosition(max(committed[position.partition], low), high)
        except KafkaException:
            return None
        return found

    def close(self) -> None:
        self._consumer.close()


def lag_of(access: KafkaAccess, group: str, topic: str) -> dict[int, int] | None:
    """Returns the lag in records by partition. None if the coordinator is loading or no broker answers."""
    positions = GroupPositions(access, group, topic)
    try:
        found = positions.read()
    finally:
        positions.close()
    return None if found is None else {partition: position.lag for partition, position in found.items()}
