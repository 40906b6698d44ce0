"""Takes chunks from Faust, passes them to the processor, marks settled events and acks the chunks.

    take ─▶ drop events the table knows ─▶ process (retry while the error is transient) ─▶ mark ─▶ ack

The agent acts on verdicts; the rules decide. The loop, with its retries and its exit, is streams/faust/consume.py. A
batch that can be neither applied nor dead-lettered ends the process with its offsets uncommitted.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from schemas.errors import DatabaseBehind
from schemas.record import Record, Source
from schemas.storable import bounded, is_storable
from schemas.trace_context import TRACEPARENT
from schemas.verdict import Applied, Dead, Duplicate, Ignored, Stale, Verdict, outcome_of
from streams import metrics
from streams.brake import BrakeTripped
from streams.faust.consume import BatchRetry, consume, exit_uncommitted
from streams.faust.seen import SeenEvents
from streams.item import Attempt
from streams.process import Processor
from streams.rules.registry import Rule

log = structlog.get_logger()

LANES = 2
"""Batches in flight at once, of different partitions: Postgres works on one while the next is decoded and decided."""

_FED_AGAIN = {Source.REPLAY, Source.RECONCILE, Source.IMPORT}

_SETTLED = (Applied, Stale, Ignored, Duplicate)


@dataclass(slots=True, kw_only=True)
class Agent:
    """One worker's loop over its stream. Skips events of streams not named in `streams`; an empty set names all."""

    processor: Processor
    seen: SeenEvents
    stream_of: Callable[[str], str]
    streams: frozenset[str]
    give_up: Callable[[BaseException, Sequence[Record]], None] = field(
        default_factory=lambda: partial(exit_uncommitted, "worker")
    )
    hold: Callable[[BrakeTripped], Awaitable[None]] | None = None
    """Called when the brake trips, before `give_up`."""
    _aside: frozenset[str] = frozenset()
    retry: BatchRetry = field(default_factory=lambda: BatchRetry("batch.retry", metrics.RETRIES))

    async def run(self, stream: Any) -> None:
        """Consumes `stream` until it ends. Each of its Faust events carries a chunk (streams/faust/chunks.py)."""
        await consume(stream, self.handle, self._give_up, lanes=LANES)

    async def _give_up(self, error: BaseException, records: Sequence[Record]) -> None:
        try:
            if isinstance(error, BrakeTripped) and self.hold is not None:
                await self.hold(error)
            if isinstance(error, DatabaseBehind) and self.processor.positions is not None:
                await self.processor.positions.note_lost()
        finally:
            self.give_up(error, records)

    async def handle(self, records: Sequence[Record]) -> None:
        """Processes one batch and marks its settled events. Raises BrakeTripped and errors that no retry can fix."""
        started = time.perf_counter()
        wanted = [record for record in records if self._is_wanted(record)]
        fresh = [record for record in wanted if not self._is_seen(record) or self._is_fed_again(record)]
        metrics.SEEN.inc(len(wanted) - len(fresh))
        if fresh:
            verdicts, attempts = await self._process(fresh, records)
            self.mark(fresh, verdicts)
            self._report_aside()
            self._report(fresh, verdicts, attempts, time.perf_counter() - started)

        await self._pass_over(records, fresh)

    async def _pass_over(self, records: Sequence[Record], fresh: Sequence[Record]) -> None:
        """Moves the database's position over partitions of the chunk in which there was nothing to process."""
        positions, processed = self.processor.positions, {(record.topic, record.partition) for record in fresh}
        reached: dict[str, dict[int, int]] = defaultdict(dict)
        for record in records:
            if (record.topic, record.partition) not in processed:
                reached[record.topic][record.partition] = record.offset + 1
        if positions is not None:
            for topic, offsets in reached.items():

                async def once(_: int, topic: str = topic, offsets: dict[int, int] = offsets) -> None:
                    await positions.pass_over(topic, offsets)

                await self.retry.run(once)

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
            self.seen.mark(partition, settled_records[0].offset, filter(is_storable, ids))

    def _is_wanted(self, record: Record) -> bool:
        return not self.streams or self.stream_of(record.headers.get("type", "")) in self.streams

    def _is_seen(self, record: Record) -> bool:
        positions = self.processor.positions
        if positions is not None and record.offset < positions.doubted.get((record.topic, record.partition), 0):
            return False
        return (record.partition, _id(record)) in self.seen

    @staticmethod
    def _is_fed_again(record: Record) -> bool:
        """Whether a repair fed the record: it is there because something may be missing, so the ledger decides."""
        return record.headers.get("source") in _FED_AGAIN

    async def _process(self, records: Sequence[Record], chunk: Sequence[Record]) -> tuple[list[Verdict], int]:
        """Returns the verdicts and the number of attempts. A transient error never dead-letters (D4)."""
        attempt = Attempt()
        last = {(record.topic, record.partition): record.offset for record in records}
        end = {(record.topic, record.partition): record.offset + 1 for record in chunk}
        attempt.ends = {place: (offset, end[place]) for place, offset in last.items()}

        async def once(number: int) -> list[Verdict]:
            attempt.number = number
            return await self.processor.process(records, attempt)

        return await self.retry.run(once), attempt.number

    def _report_aside(self) -> None:
        """Names each account that the brake has set aside since the last batch."""
        aside = self.processor.brake.aside
        for account in sorted(aside - self._aside):
            log.error(
                "worker.account_aside",
                action="worker.account_aside",
                account=bounded(account),
                reason="only events of this connected account die: they no longer count for the brake. "
                "billing dead ls shows why",
            )
        self._aside = aside
        metrics.ACCOUNTS_ASIDE.set(len(aside))

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
                event_id=bounded(_id(record)),
                type=bounded(record.headers.get("type", "")),
                stream=stream,
                verdict=outcome,
                reason=getattr(verdict, "reason", None),
                partition=record.partition,
                offset=record.offset,
                attempt=attempts,
                batch=len(records),
                batch_ms=round(seconds * 1000, 1),
                **_trace_of(record),
            )
        for (stream, outcome), count in counts.items():
            metrics.EVENTS.labels(stream=stream, outcome=outcome).inc(count)


def _trace_of(record: Record) -> dict[str, str]:
    given = record.headers.get(TRACEPARENT)
    return {} if given is None else {TRACEPARENT: bounded(given)}


def _id(record: Record) -> str:
    return record.headers.get("event_id", "")


def rules_of(streams: frozenset[str], all_rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Returns the rules of the named streams; an empty set names all."""
    return {type_: rule for type_, rule in all_rules.items() if not streams or rule.stream in streams}
