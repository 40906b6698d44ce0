"""Cuts the result of a fetch into chunks, and keeps the offset up to which a partition's chunks are acked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faust.types import TP


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition: the read position before the chunk, and the one after it."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One or more fetched records (aiokafka's), in offset order within each partition."""

    records: Sequence[Any]
    spans: Mapping[TP, Span]

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(tp.partition for tp in self.spans)


class AckedChain:
    """The offset up to which a partition is acked without a gap: the offset that may be committed.

    A span acked after a gap never counts. So the offsets of a lost chunk stay uncommitted, and the watchdog ends the
    worker.
    """

    def __init__(self) -> None:
        self._ends: dict[TP, int] = {}

    def begin(self, spans: Mapping[TP, Span]) -> None:
        """Starts the chain of each partition that has none yet, with spans that are about to be delivered."""
        for tp, span in spans.items():
            self._ends.setdefault(tp, span.start)

    def ack(self, spans: Mapping[TP, Span]) -> None:
        for tp, span in spans.items():
            end = self._ends.get(tp)
            if end is not None and span.start <= end:
                self._ends[tp] = max(end, span.end)

    def end(self, tp: TP) -> int | None:
        return self._ends.get(tp)

    def forget(self, partitions: Iterable[TP]) -> None:
        for tp in partitions:
            self._ends.pop(tp, None)

    def __iter__(self) -> Iterator[TP]:
        return iter(list(self._ends))


def cut(fetched: Mapping[TP, Sequence[Any]], size: int) -> Iterator[dict[TP, Sequence[Any]]]:
    """Yields chunks of about `size` records, of whole partitions where possible, so that they can run in parallel."""
    chunk: dict[TP, Sequence[Any]] = {}
    room = size
    for tp, records in fetched.items():
        if len(records) > room and room < size / 2:
            yield chunk
            chunk, room = {}, size
        for at in range(0, len(records), size):
            chunk[tp] = records[at : at + size]
            room -= len(chunk[tp])
            if room <= 0:
                yield chunk
                chunk, room = {}, size
    if chunk:
        yield chunk
