"""The agent: takes batches from Faust, has them processed, marks, acks. It acts on verdicts and decides nothing.

    take ─▶ drop what the table knows ─▶ process (again and again, while trouble is transient) ─▶ mark ─▶ ack

Nothing may leave the loop as an exception: Faust would ack the batch and lose it (faust-streaming issues 315, 527).
What can be neither applied nor dead-lettered ends the process, uncommitted; its supervisor starts it again.
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
"""Exit code (EX_SOFTWARE) of a worker that met what it can neither apply nor dead-letter."""

LANES = 2
"""Batches under way at once, of different partitions: Postgres works on one while the next is decoded and decided."""

_SETTLED = (Applied, Stale, Ignored, Duplicate)


def exit_uncommitted(error: BaseException) -> None:
    """Ends the process at once: no orderly stop, which would commit offsets."""
    log.critical("worker.cannot_go_on", action="worker.cannot_go_on", error=repr(error), exc_info=error)
    os._exit(EXIT_CANNOT_GO_ON)


@dataclass(slots=True, kw_only=True)
class Agent:
    """One worker's loop over its stream. `streams` are the stream names it is asked for; others are passed by."""

    processor: Processor
    seen: SeenEvents
    stream_of: Callable[[str], str]
    streams: frozenset[str]
    give_up: Callable[[BaseException], None] = exit_uncommitted
    hold: Callable[[BrakeTripped], Awaitable[None]] | None = None
    """What to do when the brake trips, before the agent gives up."""
    _troubles: dict[int, tuple[float, str]] = field(default_factory=dict)
    """Of the batches under way that Postgres or Kafka does not let through: since when, and why."""
    last_batch_at: float = field(default_factory=time.monotonic)

    async def run(self, stream: Any) -> None:
        """Consumes until the stream ends. `stream` is Faust's, whose events carry chunks (streams/faust/chunks.py)."""
        stream.enable_acks = False
        lanes = PartitionLanes(LANES)
        try:
            async for event in stream.events():
                await lanes.start(event.value.partitions, self._take(stream, event))
        finally:
            await lanes.cancel()

    async def _take(self, stream: Any, event: Any) -> None:
        """One chunk, to its ack."""
        try:
            await self.handle([_record_of(record) for record in event.value.records])
            await stream.ack(event)
        except asyncio.CancelledError:
            raise  # Faust is stopping the agent: what is not acked is read again
        except BrakeTripped as tripped:
            if self.hold is not None:
                await self.hold(tripped)
            self.give_up(tripped)
        except BaseException as error:  # noqa: BLE001  # the verdict is an exit: see the module's head
            self.give_up(error)

    async def handle(self, records: Sequence[Record]) -> None:
        """Brings one batch to its verdicts and marks what is settled. Raises only what can't be helped."""
        started = time.perf_counter()
        asked_for = [record for record in records if self._is_asked_for(record)]
        fresh = [record for record in asked_for if not self._is_seen(record)]
        metrics.SEEN.inc(len(asked_for) - len(fresh))
        if fresh:
            verdicts, attempts = await self._process(fresh)
            self.mark(fresh, verdicts)
            self._report(fresh, verdicts, attempts, time.perf_counter() - started)
        self.last_batch_at = time.monotonic()

    def mark(self, records: Sequence[Record], verdicts: Sequence[Verdict]) -> None:
        """Marks what is settled, after its commit. Waiting and dead events stay unmarked, so a replay gets through."""
        pairs = list(zip(records, verdicts, strict=True))
        unsettled = {_id(record) for record, verdict in pairs if not isinstance(verdict, _SETTLED)}
        settled: dict[int, list[Record]] = defaultdict(list)
        for record in records:
            if _id(record) not in unsettled:
                settled[record.partition].append(record)
        for partition, of_partition in settled.items():
            ids = dict.fromkeys(map(_id, of_partition))
            self.seen.mark(partition, of_partition[0].offset, filter(None, ids))

    @property
    def troubled_since(self) -> float | None:
        """Monotonic time since which a batch has not got through; None while all is well."""
        return min(self._troubles.values())[0] if self._troubles else None

    @property
    def trouble(self) -> str:
        return min(self._troubles.values())[1] if self._troubles else ""

    def _is_asked_for(self, record: Record) -> bool:
        return not self.streams or self.stream_of(record.headers.get("type", "")) in self.streams

    def _is_seen(self, record: Record) -> bool:
        return (record.partition, _id(record)) in self.seen

    async def _process(self, records: Sequence[Record]) -> tuple[list[Verdict], int]:
        """Tries until the batch is through. The partition waits meanwhile: transient trouble is never poison (D4)."""
        attempt = Attempt()
        try:
            while True:
                try:
                    return await self.processor.process(records, attempt), attempt.number
                except Transient as error:
                    await self._wait_out(error, attempt)
        finally:
            self._troubles.pop(id(attempt), None)

    async def _wait_out(self, error: Transient, attempt: Attempt) -> None:
        since, _ = self._troubles.get(id(attempt), (time.monotonic(), ""))
        self._troubles[id(attempt)] = since, f"{type(error).__name__}: {error}"
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
    """aiokafka's record as ours."""
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
    """The rules of the named streams; no name means all."""
    return {type_: rule for type_, rule in all_rules.items() if not streams or rule.stream in streams}
