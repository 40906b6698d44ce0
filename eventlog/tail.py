"""Reads a topic from a position to its end, or follows it. Joins no group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from confluent_kafka import OFFSET_INVALID, KafkaError, Message, TopicPartition

from eventlog import client
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess

_TIMEOUT_S = client.TIMEOUT_S
_POLL_S = 0.25
_BATCH = 500

FROM_START = "start"
FROM_NOW = "now"
Begin = datetime | str
"""FROM_START, FROM_NOW, or the time of the first record."""


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """The range of one partition when the reading began: first offset, and the offset after the last record."""

    first: int
    end: int


class LogTail:
    """Blocks; for one thread. All methods raise LogUnavailable if the brokers do not answer for ten seconds.

    With a `group` the reading starts at the group's committed offsets, and `commit` moves them. Without a group nothing
    is committed.
    """

    def __init__(self, access: KafkaAccess, topic: str, *, begin: Begin, group: str | None = None) -> None:
        self._access = access
        self._topic = topic
        self._group = group
        self._consumer = client.consumer(
            access,
            group=group or f"{topic}.tail",
            properties={"auto.offset.reset": "earliest"},  # records that retention removes meanwhile are skipped
        )
        try:
            self.bounds = self._find_bounds(begin)
        except BaseException:
            self.close()
            raise
        self._next = {partition: bounds.first for partition, bounds in self.bounds.items()}
        self._consumer.assign([TopicPartition(topic, partition, at) for partition, at in self._next.items()])

    def read(self, *, follow: bool, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[list[Message]]:
        """Yields batches in each partition's order, and an empty batch if nothing arrived for a moment.

        Ends at the offsets that were the end when the reading began, or, with `follow`, when `is_stopped` returns True.
        """
        last_record_at = time.monotonic()
        while not is_stopped() and (follow or not self._is_at_end()):
            messages = client.arrived(self._consumer, _BATCH, within_s=_POLL_S)
            batch = [one for one in messages if one.error() is None and self._is_wanted(one, follow=follow)]
            if batch:
                last_record_at = time.monotonic()
            elif not follow and time.monotonic() - last_record_at > _TIMEOUT_S:
                raise LogUnavailable(f"{self._topic} was not read to its end")
            yield batch

    def give_back(self, messages: Iterable[Message]) -> None:
        """Returns unprocessed messages of a batch, so that `commit` does not include them. Do not read after it."""
        for message in messages:
            partition, offset = message.partition() or 0, message.offset() or 0
            self._next[partition] = min(self._next[partition], offset)

    def commit(self) -> None:
        """Commits the offsets after all records that `read` has yielded, less those given back. Raises ValueError."""
        if self._group is None:
            raise ValueError("commit needs a group")
        places = [TopicPartition(self._topic, partition, at) for partition, at in self._next.items()]
        with client.log_errors(self._access, self._topic):
            self._consumer.commit(offsets=places, asynchronous=False)

    def close(self) -> None:
        self._consumer.close()

    def _is_wanted(self, message: Message, *, follow: bool) -> bool:
        partition, offset = message.partition() or 0, message.offset() or 0
        if not follow and offset >= self.bounds[partition].end:
            return False
        self._next[partition] = offset + 1
        return True

    def _is_at_end(self) -> bool:
        return all(self._next[partition] >= bounds.end for partition, bounds in self.bounds.items())

    def _find_bounds(self, begin: Begin) -> dict[int, OffsetRange]:
        with client.log_errors(self._access, self._topic):
            found = client.cluster_metadata(self._consumer, self._access, self._topic).topics[self._topic]
            if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise LogUnavailable(f"{self._topic}: {client.cause_of(self._access, found.error)}")
            if found.error is not None:
                raise LogUnavailable(f"there is no topic {self._topic}: run `billing topics` first")
            places = [TopicPartition(self._topic, partition) for partition in found.partitions]
            ends = {p.partition: client.watermarks(self._consumer, p, within_s=_TIMEOUT_S) for p in places}
            firsts = self._firsts(begin, ends)
            if self._group is not None:
                for place in self._consumer.committed(places, timeout=_TIMEOUT_S):
                    if place.offset != OFFSET_INVALID:
                        firsts[place.partition] = max(place.offset, ends[place.partition][0])
        return {partition: OffsetRange(firsts[partition], high) for partition, (_, high) in ends.items()}

    def _firsts(self, begin: Begin, ends: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        if isinstance(begin, datetime):
            millis = client.millis_of(begin)
            starts = [TopicPartition(self._topic, partition, millis) for partition in ends]
            answers = self._consumer.offsets_for_times(starts, timeout=_TIMEOUT_S)
            return {at.partition: at.offset if at.offset >= 0 else ends[at.partition][1] for at in answers}
        return {partition: low if begin == FROM_START else high for partition, (low, high) in ends.items()}
