"""Takes chunks from Faust, passes them to the processor, marks settled events and acks the chunks.

    take ─▶ drop events the table knows ─▶ process (retry while the error is transient) ─▶ mark ─▶ ack

The agent acts on verdicts; the rules decide. No exception may leave the loop, because Faust would ack the batch and
lose it (faust-streaming issues 315, 527). A batch that can be neither applied nor dead-lettered ends the process with
its offsets uncommitted; the supervisor restarts the process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from schemas.errors import Transient
from schemas.record import Record, decode_headers
from schemas.timing import pause
from schemas.verdict import Applied, Dead, Duplicate, Ignored, Stale, Verdict, outcome_of
from streams import metrics
from streams.brake import BrakeTripped
from streams.faust.seen import SeenEvents
from streams.item import Attempt
from streams.lanes import PartitionLanes
from streams.process import Processor
from streams.rules.registry import Rule

log = structlog.get_logger()

EXIT_CANNOT_GO_ON = 70
"""Exit code (EX_SOFTWARE) of a worker with a batch that it can neither apply nor dead-letter."""

LANES = 2
"""Batches in flight at once, of different partitions: Postgres works on one while the next is decoded and decided."""

_SETTLED = (Applied, Stale, Ignored, Duplicate)


def exit_uncommitted(error: BaseException) -> None:
    """Ends the process at once. An orderly stop would commit offsets."""
    log.critical("worker.cannot_go_on", action="worker.cannot_go_on", error=repr(error), exc_info=error)
    os._exit(EXIT_CANNOT_GO_ON)


@dataclass(slots=True, kw_only=True)
class Agent:
    """One worker's loop over its stream. Skips events of streams not named in `streams`; an empty set names all."""

    processor: Processor
    seen: SeenEvents
    stream_of: Callable[[str], str]
    streams: frozenset[str]
    give_up: Callable[[BaseException], None] = exit_uncommitted
    hold: Callable[[BrakeTripped], Awaitable[None]] | None = None
    """Called when the brake trips, before `give_up`."""
    _retrying: dict[int, tuple[float, str]] = field(default_factory=dict)
    """Batches in flight that are being retried: monotonic time of the first failure, and the last error."""
    last_batch_at: float = field(default_factory=time.monotonic)

    async def run(self, stream: Any) -> None:
        """Consumes `stream` until it ends. Each of its Faust events carries a chunk (streams/faust/chunks.py)."""
        stream.enable_acks = False
        lanes = PartitionLanes(LANES)
        try:
            async for event in stream.events():
                await lanes.start(event.value.partitions, self._take(stream, event))
        finally:
            await lanes.cancel()

    async def _take(self, stream: Any, event: Any) -> None:
        """Processes one chunk and acks it."""
        try:
            await self.handle([_record_of(record) for record in event.value.records])
            await stream.ack(event)
        except asyncio.CancelledError:
            raise  # Faust is stopping the agent; records without an ack are read again
        except BrakeTripped as tripped:
            if self.hold is not None:
                await self.hold(tripped)
            self.give_up(tripped)
        except BaseException as error:  # noqa: BLE001  # no exception may leave the loop (see the module docstring)
            self.give_up(error)

    async def handle(self, records: Sequence[Record]) -> None:
        """Processes one batch and marks its settled events. Raises BrakeTripped and errors that no retry can fix."""
        started = time.perf_counter()
        wanted = [record for record in records if self._is_wanted(record)]
        fresh = [record for record in wanted if not self._is_seen(record)]
        metrics.SEEN.inc(len(wanted) - len(fresh))
        if fresh:
            verdicts, attempts = await self._process(fresh)
            self.mark(fresh, verdicts)
            self._report(fresh, verdicts, attempts, time.perf_counter() - started)
        self.last_batch_at = time.monotonic()

    def mark(self, records: Sequence[Record], verdicts: Sequence[Verdict]) -> None:
        """Marks settled events after their commit; not waiting or dead ones, so that their replay is processed."""
        pairs = list(zip(records, verdicts, strict=True))
        unsettled = {_id(record) for record, verdict in pairs if not isinstance(verdict, _SETTLED)}
        settled: dict[int, list[Record]] = defaultdict(list)
        for record in records:
            if _id(record) not in unsettled:
                settled[record.partition].append(record)
        for partition, settled_records in settled.items():
            ids = dict.fromkeys(map(_id, settled_records))
            self.seen.mark(partition, settled_records[0].offset, filter(None, ids))

    @property
    def troubled_since(self) -> float | None:
        """Monotonic time of the first failure of the batch retried longest; None if no batch is being retried."""
        return min(self._retrying.values())[0] if self._retrying else None

    @property
    def trouble(self) -> str:
        """The last error of that batch; empty if no batch is being retried."""
        return min(self._retrying.values())[1] if self._retrying else ""

    def _is_wanted(self, record: Record) -> bool:
        return not self.streams or self.stream_of(record.headers.get("type", "")) in self.streams

    def _is_seen(self, record: Record) -> bool:
        return (record.partition, _id(record)) in self.seen

    async def _process(self, records: Sequence[Record]) -> tuple[list[Verdict], int]:
        """Retries until the batch is processed; its partitions wait. A transient error never dead-letters (D4)."""
        attempt = Attempt()
        try:
            while True:
                try:
                    return await self.processor.process(records, attempt), attempt.number
                except Transient as error:
                    await self._wait_out(error, attempt)
        finally:
            self._retrying.pop(id(attempt), None)

    async def _wait_out(self, error: Transient, attempt: Attempt) -> None:
        since, _ = self._retrying.get(id(attempt), (time.monotonic(), ""))
        self._retrying[id(attempt)] = since, f"{type(error).__name__}: {error}"
        wait = pause(attempt.number)
        log.warning(
            "batch.retry",
            action="batch.retry",
            error=f"{type(error).__name__}: {error}",
            attempt=attempt.number,
            wait_s=round(wait, 2),
        )
        metrics.RETRIES.labels(error=type(error).__name__).inc()
        attempt.number += 1
        await asyncio.sleep(wait)

    def _report(self, records: Sequence[Record], verdicts: Sequence[Verdict], attempts: int, seconds: float) -> None:
        metrics.BATCH_SIZE.observe(len(records))
        metrics.BATCH_SECONDS.observe(seconds)
        now = time.time()
        counts: Counter[tuple[str, str]] = Counter()
        for record, verdict in zip(records, verdicts, strict=True):
            stream, outcome = self.stream_of(record.headers.get("type", "")), outcome_of(verdict)
            counts[stream, outcome] += 1
            metrics.LATENCY.observe(max(0.0, now - record.received_at.timestamp()))
            write = log.warning if isinstance(verdict, Dead) else log.info
            write(
                "event.processed",
                action="event.processed",
                event_id=record.headers.get("event_id"),
                type=record.headers.get("type"),
                stream=stream,
                verdict=outcome,
                reason=getattr(verdict, "reason", None),
                partition=record.partition,
                offset=record.offset,
                attempt=attempts,
                batch=len(records),
                batch_ms=round(seconds * 1000, 1),
            )
        for (stream, outcome), count in counts.items():
            metrics.EVENTS.labels(stream=stream, outcome=outcome).inc(count)


def _id(record: Record) -> str:
    return record.headers.get("event_id", "")


def _record_of(consumed: Any) -> Record:
    """Converts aiokafka's record to a `Record`."""
    headers = consumed.headers
    return Record(
        topic=consumed.topic,
        partition=consumed.partition,
        offset=consumed.offset,
        key=consumed.key,
        value=consumed.value,
        raw_headers=headers,
        headers=decode_headers(headers),
        timestamp=consumed.timestamp / 1000,
    )


def rules_of(streams: frozenset[str], all_rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Returns the rules of the named streams; an empty set names all."""
    return {type_: rule for type_, rule in all_rules.items() if not streams or rule.stream in streams}
