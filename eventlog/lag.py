"""How far a consumer group is behind: what the log holds that the group has not committed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """Where a group stands in one partition: the next offset it will read if it starts anew, and the log's end."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        return self.end - self.committed


class GroupPositions:
    """Asks the brokers for one group's places, over a connection it keeps. Does not join the group."""

    def __init__(self, bootstrap: str, group: str, topic: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._topic = topic
        self._timeout_s = timeout_s
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 0}
        )

    def read(self, partitions: Iterable[int] | None = None) -> dict[int, GroupPosition] | None:
        """By partition, of these or of all. None while it can't be told: the coordinator is loading, or no answer."""
        try:
            if partitions is None:
                listed = self._consumer.list_topics(self._topic, timeout=self._timeout_s)
                partitions = listed.topics[self._topic].partitions
            wanted = [TopicPartition(self._topic, partition) for partition in partitions]
            if not wanted:
                return {}
            committed = {place.partition: place.offset for place in self._consumer.committed(wanted, self._timeout_s)}
            found = {}
            for place in wanted:
                low, high = self._consumer.get_watermark_offsets(place, timeout=self._timeout_s)
                # Before its first commit a group begins at what is left of the log.
                found[place.partition] = GroupPosition(max(committed[place.partition], low), high)
        except KafkaException:
            return None
        return found

    def close(self) -> None:
        self._consumer.close()


def lag_of(bootstrap: str, group: str, topic: str) -> dict[int, int] | None:
    """Records behind, by partition. None while it can't be told: the coordinator is loading, or no broker answers."""
    places = GroupPositions(bootstrap, group, topic)
    try:
        found = places.read()
    finally:
        places.close()
    return None if found is None else {partition: place.lag for partition, place in found.items()}
