"""Passes the records that Faust delivers to the book, in the group `{prefix}.analytics`.

The loop, with its retries and its exit, is streams/faust/consume.py, as in the worker. No Faust table is needed: the
primary key of `facts` prevents events from being counted twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from analytics import metrics
from analytics.book import Book
from schemas.record import Record
from streams.faust.consume import BatchRetry, consume, exit_uncommitted


def group_of(prefix: str) -> str:
    """Returns the name of the consumer group, which is also Faust's application id."""
    return f"{prefix}.analytics"


@dataclass(frozen=True, slots=True)
class Read:
    """The parts of a record that analytics reads."""

    topic: str
    partition: int
    offset: int
    type: str
    value: bytes | None


@dataclass(slots=True, kw_only=True)
class Follower:
    """Reads one process's stream and counts its batches."""

    book: Book
    give_up: Callable[[BaseException, Sequence[Record]], None] = field(
        default_factory=lambda: partial(exit_uncommitted, "analytics")
    )
    retry: BatchRetry = field(default_factory=lambda: BatchRetry("analytics.retry", metrics.RETRIES))

    async def run(self, stream: Any) -> None:
        """Consumes until the stream ends. Each of its Faust events carries a chunk (streams/faust/chunks.py)."""
        await consume(stream, self.handle, self._give_up)

    async def _give_up(self, error: BaseException, records: Sequence[Record]) -> None:
        self.give_up(error, records)

    async def handle(self, records: Sequence[Record]) -> None:
        """Counts one batch. Retries transient errors without limit; raises only unforeseen errors."""
        started = time.perf_counter()
        parts = [_read(record) for record in records]
        counted = await self.retry.run(lambda _: self.book.take(parts))
        metrics.BATCH_SIZE.observe(len(records))
        metrics.BATCH_SECONDS.observe(time.perf_counter() - started)
        for outcome in ("passed", "facts", "unreadable"):
            metrics.EVENTS.labels(outcome).inc(getattr(counted, outcome))
        metrics.ROWS.inc(counted.rows)


def _read(record: Record) -> Read:
    return Read(record.topic, record.partition, record.offset, record.headers.get("type", ""), record.value)
