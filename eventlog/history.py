"""Reads the whole log once from its start. Joins no group and commits nothing.

Each partition is read in its order. The partitions are merged by the records' times, which is closest to the order of
arrival.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from eventlog import client
from eventlog.entry import headers_of
from schemas.errors import LogUnavailable
from schemas.kafka_access import KafkaAccess
from schemas.record import Record, record_of

_QUIET_S = 60.0
"""Seconds without a record after which the brokers count as unavailable, before the end of the log."""
_ENOUGH, _FEW = 4000, 1000
"""Buffered records of one partition above which it is paused, and below which it is resumed."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Offsets [first, end) of one partition. If `first` is above 0, retention has removed the records before it."""

    first: int
    end: int


class HistoryReader:
    """Reads the records that the topic has when the reader is created. Blocks; not for concurrent use.

    With `until`, each partition ends before its first record of that time or later. With `starts`, only these
    partitions are read, each from its offset. All methods raise LogUnavailable.
    """

    def __init__(
        self,
        access: KafkaAccess,
        topic: str,
        *,
        until: datetime | None = None,
        starts: Mapping[int, int] | None = None,
    ) -> None:
        self._access = access
        self._topic = topic
        self._consumer = client.consumer(
            access,
            group="billing-rebuild",
            properties={
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                # Records that retention removes during the reading must not be skipped silently.
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 32_768,
            },
        )
        try:
            with client.log_errors(access, f"{topic} can't be read"):
                self.stretches = self._stretches(until, starts)
                self._open = {number for number, stretch in self.stretches.items() if stretch.first < stretch.end}
                self._consumer.assign([TopicPartition(topic, p, self.stretches[p].first) for p in sorted(self._open)])
        except BaseException:
            self.close()
            raise
        self._buffers: dict[int, deque[Record]] = {partition: deque() for partition in self._open}
        self._heads: list[tuple[float, int]] = []
        self._paused: set[int] = set()

    @property
    def total(self) -> int:
        """Number of offsets in all stretches. Records can be fewer, since some offsets may have no record."""
        return sum(stretch.end - stretch.first for stretch in self.stretches.values())

    def read(self, most: int) -> list[Record]:
        """Returns the next records, at most `most`; an empty list at the end."""
        found: list[Record] = []
        while len(found) < most and self._fill():
            _, partition = heapq.heappop(self._heads)
            buffer = self._buffers[partition]
            found.append(buffer.popleft())
            if buffer:
                heapq.heappush(self._heads, (buffer[0].timestamp, partition))
            if partition in self._paused and len(buffer) < _FEW:
                self._paused.discard(partition)
                self._consumer.resume([TopicPartition(self._topic, partition)])
        return found

    def close(self) -> None:
        self._consumer.close()

    def _fill(self) -> bool:
        """Reads until each partition that has not ended has a buffered record. Returns False if no record is left."""
        quiet = 0.0
        while any(not self._buffers[partition] for partition in self._open):
            messages = client.arrived(self._consumer, 1000, within_s=1.0)
            quiet = 0.0 if messages else quiet + 1.0
            if quiet >= _QUIET_S:
                raise LogUnavailable(f"{self._topic}: no record arrived for {_QUIET_S:.0f} s")
            for message in messages:
                self._take(message)
        return bool(self._heads)

    def _take(self, message: Any) -> None:
        partition, error = message.partition(), message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._open.discard(partition)
            elif not error.retriable():
                raise LogUnavailable(
                    f"{self._topic}/{partition} can't be read further: {client.cause_of(self._access, error)}"
                )
            return
        if partition not in self._open:
            return
        end = self.stretches[partition].end
        if message.offset() < end:
            buffer = self._buffers[partition]
            buffer.append(_record(message))
            if len(buffer) == 1:
                heapq.heappush(self._heads, (buffer[0].timestamp, partition))
            if len(buffer) > _ENOUGH and partition not in self._paused:
                self._paused.add(partition)
                self._consumer.pause([TopicPartition(self._topic, partition)])
        if message.offset() >= end - 1:
            self._open.discard(partition)

    def _stretches(self, until: datetime | None, begin: Mapping[int, int] | None) -> dict[int, Stretch]:
        found = client.cluster_metadata(self._consumer, self._access, self._topic).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        marks = {
            partition: client.watermarks(self._consumer, TopicPartition(self._topic, partition))
            for partition in found.partitions
            if begin is None or partition in begin
        }
        ends = {partition: high for partition, (_, high) in marks.items()}
        if until is not None:
            at = client.millis_of(until)
            starts = [TopicPartition(self._topic, partition, at) for partition in marks]
            for place in self._consumer.offsets_for_times(starts, timeout=client.TIMEOUT_S):
                if place.offset >= 0:
                    ends[place.partition] = min(ends[place.partition], place.offset)
        firsts = {partition: max(low, (begin or {}).get(partition, low)) for partition, (low, _) in marks.items()}
        return {partition: Stretch(first, max(first, ends[partition])) for partition, first in sorted(firsts.items())}


def _record(message: Any) -> Record:
    return record_of(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        headers_of(message),
        message.timestamp()[1] / 1000,
    )
