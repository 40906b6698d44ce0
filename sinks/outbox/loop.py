"""The dispatcher loop of every outbox: concurrent lanes claim rows, deliver them and store the results until stopped.

    due? ─▶ other side reachable? ─▶ claim ─▶ still true? ─▶ deliver ─▶ store the verdict ─▶ log, count
                                                          └─▶ in shadow mode: hold (sinks/postgres/shadow.py)

An outbox adds `deliver(row) -> verdict`, its log fields and its metrics by a subclass. Row locks in Postgres keep lanes
and dispatchers from claiming the same row. A crash repeats at most one delivery of each lane: one that the other side
has answered and whose result waits for others (GATHER_S), for a running statement (marks.py), or for its own commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar, assert_never

import structlog

from schemas.errors import StoreUnavailable
from sinks.outbox import outages
from sinks.outbox.claim_size import ClaimSize
from sinks.outbox.claims import Claimed, Claims
from sinks.outbox.metrics import LoopMetrics
from sinks.outbox.outage import Outage
from sinks.outbox.pace import LoopPace
from sinks.outbox.refusals import HOLD, RUN, Refusals, answer_of, held_reason, was_refused_before
from sinks.outbox.report import reported
from sinks.outbox.truth import Answer, Answers, Truth
from sinks.outbox.untried import give_back, give_back_all
from sinks.outbox.verdicts import Done, Failed, NotTried, NotYet, RetryAt, RowRefused, Verdict, Withheld
from sinks.postgres.tables import HELD

log = structlog.get_logger(__name__)

_AT_ONCE = timedelta(0)
R = TypeVar("R", bound=Claimed)


class OutboxLoop(ABC, Generic[R]):
    """Delivers rows with `run` until stopped. `trouble`, `outbox_trouble` and `stuck` report problems."""

    action: ClassVar[str]
    """Names the loop in logs: the first part of the `action` of its own lines."""
    row_action: ClassVar[str]
    """The first part of the `action` of the line about a row, before its outcome."""
    down_action: ClassVar[str]
    up_action: ClassVar[str]
    store_check: ClassVar[str]
    service_check: ClassVar[str | None]
    lanes_check: ClassVar[str]
    """Names in /readyz: the outbox is readable; the other side accepts (None: not checked); no lane is stuck."""

    def __init__(
        self,
        claims: Claims[R],
        metrics: LoopMetrics,
        *,
        clock: Callable[[], datetime],
        pace: LoopPace,
        lanes: int,
        address: str = "",
        chance: Callable[[], float] = random.random,
        truth: Truth[R] | None = None,
    ) -> None:
        """`address` is the other side's host and port, shown during an outage. `clock` measures pauses only."""
        self._claims = claims
        self._metrics = metrics
        self._pace = pace
        self._address = address
        self._truth = truth
        self._outage = Outage(clock, chance)
        self._noted_outage = False
        self._refusals = Refusals()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._turns = [time.monotonic()] * lanes
        self._delivering = 0
        self._rows: list[list[R]] = [[] for _ in range(lanes)]
        """The rows that each lane has claimed and not tried."""
        self._sizes = [ClaimSize(pace.claim_size, pace.largest_claim) for _ in range(lanes)]
        self._store_trouble: str | None = "the outbox has not been read yet"

    def wake(self) -> None:
        """Check the outbox now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the rows being delivered, release the other claims, and return from `run`."""
        self._stopping.set()
        self._wake.set()

    def trouble(self) -> str | None:
        """Return why deliveries are paused, or None."""
        return self._outage.reason

    def outbox_trouble(self) -> str | None:
        """Return why the outbox cannot be read, or None."""
        return self._store_trouble

    def stuck(self) -> str | None:
        """Return the reason why this process must be restarted, or None."""
        idle = time.monotonic() - min(self._turns)
        return f"{self.action}: a lane has made no progress for {idle:.0f} s" if idle > self._pace.stuck_s else None

    async def run(self) -> None:
        """Run until `stop`. If a lane ends before, all stop, and what ended it is raised.

        The process then ends and is restarted.
        """
        self._claims.in_flight = lambda: self._delivering
        lanes = [asyncio.create_task(self._go_on(lane)) for lane in range(len(self._turns))]
        watcher = asyncio.create_task(self._watch())
        stopped = asyncio.create_task(self._stopping.wait())
        tasks: Sequence[asyncio.Task[object]] = [*lanes, watcher, stopped]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            has_ended_early = not self._stopping.is_set()
            self.stop()
            _, late = await asyncio.wait(lanes, timeout=self._pace.finish_s)
            if late:
                action = f"{self.action}.stopped_during_delivery"
                log.warning("rows being delivered did not finish in time", action=action, lanes=len(late))
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            action = f"{self.action}.not_given_back"
            await give_back_all(self._claims, self._rows, within_s=self._pace.give_back_s, action=action)
            await self.close()
        for end in ended:
            if isinstance(end, Exception):
                raise end
        if has_ended_early:  # a CancelledError of code that the lane has called
            raise RuntimeError(f"{self.action}: a lane was cancelled before the stop")

    # What an outbox adds.

    @abstractmethod
    async def deliver(self, row: R, lane: int) -> Verdict:
        """Deliver the row and return the verdict. Faults of the row or of the other side do not raise."""

    @abstractmethod
    def fields(self, row: R) -> Mapping[str, object]:
        """Return the row's fields for the log: ids and kinds, no personal data."""

    def leaves(self, _row: R) -> bool:
        """Return whether a delivery of the row has an effect outside this system. Shadow mode holds only such rows."""
        return True

    async def hold(self, _row: R, _lane: int) -> Verdict:
        """Return the verdict on a row in shadow mode: as `deliver`, without its effect."""
        return Withheld(HELD)

    def kind(self, _row: R) -> str | None:
        """Return the label by which metrics count the row."""
        return None

    def with_present(self, row: R, _present: Mapping[str, Any]) -> R:
        """Return the row with the values that are true now, for outboxes with a check of truth."""
        return row

    async def reach(self, _lane: int) -> str | None:
        """Return why the other side cannot be reached, or None. Called before a claim, so that no row loses a try."""
        return None

    async def idle(self, _lane: int) -> None:
        """Called when the lane has found no work."""

    async def close(self) -> None:
        """Called once, when all lanes have ended."""

    def settled(self, row: R, verdict: Verdict, seconds: float) -> Awaitable[None] | None:  # noqa: ARG002  # for subclasses
        """Called when a verdict is stored. May return an awaitable."""
        return None

    async def lost(self, _row: R, _verdict: Verdict) -> str | None:
        """Called when the claim was lost and the verdict is not stored. Returns the outcome if that is no error."""
        return None

    # The loop.

    async def _go_on(self, lane: int) -> None:
        while not self._stopping.is_set():
            self._turns[lane] = time.monotonic()
            self._wake.clear()
            try:
                is_busy = await self.turn(lane)
            except StoreUnavailable as error:
                self._store_trouble = str(error)
                log.warning("cannot read the outbox", action=f"{self.action}.store_unavailable", error=str(error))
                await self._pause(self._pace.store_pause_s)
                continue
            if not is_busy:
                await self.idle(lane)
                await self._wait_for_work()

    async def turn(self, lane: int) -> bool:
        """Claim and deliver one batch. Returns whether to continue without a pause. Raises StoreUnavailable."""
        await give_back(self._claims, self._rows[lane])  # after a stop or a pause, or if Postgres was away
        if self._outage.is_pausing or (self._outage.is_on and lane != 0):  # during an outage, only lane 0 checks
            return False
        size = self._sizes[lane]
        has_due = size.is_full or await self._claims.has_due()
        self._looked()
        if not has_due:
            return False
        if not self._claims.is_shadow and (reason := await self.reach(lane)) is not None:
            size.interrupted()
            self._begin_outage(reason)
            return False
        if self._outage.is_on and not self._outage.is_refusal and self.reach_is_proof:
            self._end_outage()
        began = time.monotonic()
        rows = self._rows[lane] = await self._claim(size.size)
        claimed, size.is_full = len(rows), False
        await self._claims.check_not_restored()  # after the claim: these rows may have left before a restore
        await self._deliver_all(rows, lane)
        if rows or self._outage.is_on:
            size.interrupted()
        else:
            size.delivered(claimed, time.monotonic() - began)
        await give_back(self._claims, rows)
        return claimed > 0 and not self._outage.is_on

    async def _claim(self, size: int) -> list[R]:
        """Claim rows; during an outage one. After refusals one of another kind, since it may be accepted."""
        if self._outage.is_refusal and (rows := await self._claims.claim(1, avoid=self._refusals.kinds)):
            return rows
        return await self._claims.claim(1 if self._outage.is_on else size)

    async def _deliver_all(self, rows: list[R], lane: int) -> None:
        """Deliver the rows of a claim in order until a stop or a pause. What is not tried stays in `rows`."""
        answers = Answers(self._truth, self._claims) if self._truth is not None else None
        while rows and not self._stopping.is_set() and not self._outage.is_pausing:
            self._turns[lane] = time.monotonic()
            answer = await answers.next(rows) if answers is not None else None
            await self._deliver(rows.pop(0), answer, lane)

    reach_is_proof: ClassVar[bool] = False
    """Whether a successful `reach` ends an outage. Otherwise only a delivery does."""

    async def _deliver(self, row: R, answer: Answer | Exception, lane: int) -> None:
        started = time.perf_counter()
        self._delivering += 1
        try:
            verdict = await self._verdict(row, answer, lane)
        finally:
            self._delivering -= 1
        seconds = time.perf_counter() - started
        if isinstance(verdict, RowRefused):
            verdict = self._judge(row, verdict)
        kept = await self._store(row, verdict)
        if (more := self.settled(row, verdict, seconds)) is not None:
            await more
        expected = None if kept else await self.lost(row, verdict)
        self._report(row, verdict, seconds, kept=kept, expected=expected)

    async def _verdict(self, row: R, answer: Answer | Exception, lane: int) -> Verdict:
        if isinstance(answer, Exception):
            # A bug triggered by this row's data. The row fails, which an operator sees; others continue.
            log.error("a row cannot be checked", action=f"{self.action}.check_failed", key=row.key, exc_info=answer)
            return Failed(f"cannot be checked: {type(answer).__name__}")
        if isinstance(answer, Withheld | NotYet):
            return answer
        if answer is not None:
            row = self.with_present(row, answer)
        if row.is_shadow and self.leaves(row):
            return await self.hold(row, lane)
        return await self.deliver(row, lane)

    def _judge(self, row: R, refused: RowRefused) -> Verdict:
        """Decide whether a refusal is about the row or about us (refusals.py)."""
        if self._refusals.add(refused.reason, refused.subject, refused.group, self.kind(row)):
            reason = f"{RUN} different ones in a row were refused with: {answer_of(refused.reason)}"
            self._begin_outage(reason, is_refusal=True)
            return NotYet(_AT_ONCE, held_reason(refused.reason), outcome="given_back")
        if not was_refused_before(row.last_error, refused.reason):
            return NotYet(HOLD, held_reason(refused.reason), outcome="held")
        is_about_row = self._refusals.is_about_the_row(refused.reason, refused.subject, refused.group)
        return refused.verdict if is_about_row else refused.later

    async def _store(self, row: R, verdict: Verdict) -> bool:
        match verdict:
            case Done():
                if self._refusals.accepted(verdict.group) or not self._outage.is_refusal:
                    self._end_outage()
                    self._outage.succeeded()
                mark = partial(self._claims.done, row, verdict.columns, verdict.status)
                return await self._insist(mark, row)
            case RetryAt():
                if not self._outage.is_refusal:
                    self._end_outage()
                    self._outage.succeeded()
                return await self._claims.retry(row, verdict.after, verdict.reason)
            case NotYet():
                return await self._claims.give_back(row, verdict.after, verdict.reason)
            case Failed():
                return await self._claims.fail(row, verdict.reason, verdict.columns)
            case Withheld():
                return await self._claims.withhold(row, verdict.reason, verdict.columns)
            case NotTried():
                if verdict.reason is not None:
                    self._begin_outage(verdict.reason, verdict.at_least)
                return await self._claims.give_back(row, _AT_ONCE, verdict.reason)
            case RowRefused():
                raise AssertionError("judged before")
            case _:
                assert_never(verdict)

    async def _insist(self, mark: Callable[[], Awaitable[bool]], row: R) -> bool:
        """Store a result with `mark`, and retry until the claim expires. Returns the result of `mark`.

        The row has already taken effect at the other side, so a lost result would repeat it. Raises StoreUnavailable.
        """
        while True:
            try:
                return await mark()
            except StoreUnavailable as error:
                self._store_trouble = str(error)
                if time.monotonic() >= row.deadline:
                    raise
                action = f"{self.action}.mark_failed"
                log.warning("cannot store a delivery, trying again", action=action, key=row.key, error=str(error))
                await asyncio.sleep(self._pace.store_pause_s)

    def _report(self, row: R, verdict: Verdict, seconds: float, *, kept: bool, expected: str | None) -> None:
        details: dict[str, object] = {
            "key": row.key,
            **self.fields(row),
            "attempt": row.attempts,
            "ms": round(seconds * 1000, 1),
        }
        outcome, level, more = reported(verdict, row.now, self._claims.queue.outbox.done)
        details |= more
        if expected is not None:
            outcome, level = expected, "info"
        elif not kept:
            is_held = isinstance(verdict, Withheld) and verdict.reason == HELD  # nothing left, so nothing leaves twice
            details["claim"], level = "lost", "info" if is_held else "error"
        self._metrics.settled(self.kind(row), outcome)
        action = f"{self.row_action}{outcome}"
        getattr(log, level)(action, action=action, **details)

    def _begin_outage(self, reason: str, at_least: timedelta = _AT_ONCE, *, is_refusal: bool = False) -> None:
        pause = self._outage.begin(reason, at_least, is_refusal=is_refusal)
        if pause is None:
            return
        self._metrics.paused.set(1)
        self._metrics.refused.set(is_refusal)
        action, failures, pause_s = self.down_action, self._outage.failures, round(pause.total_seconds(), 1)
        log.warning(
            "nothing can be delivered, pausing", action=action, reason=reason, failures=failures, pause_s=pause_s
        )

    def _end_outage(self) -> None:
        if self._outage.end():
            log.info("deliveries continue", action=self.up_action, failures=self._outage.failures)
            self.wake()
        self._metrics.paused.set(0)
        self._metrics.refused.set(0)

    def _looked(self) -> None:
        self._store_trouble = None
        self._metrics.last_loop.set(time.time())

    async def _wait_for_work(self) -> None:
        if self._outage.is_on:  # new rows do not shorten the pause of an outage
            await self._pause(min(self._pace.poll_s, max(self._outage.left_s, 0.05)))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._pace.poll_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):  # the lanes log this, and /readyz reports it
                await self.watch()
            await asyncio.sleep(self._pace.poll_s)

    async def watch(self) -> None:
        """Measure the outbox, and store whether there is an outage, for operators. Raises StoreUnavailable."""
        depth = await self._claims.depth()
        self._metrics.open.set(depth.open)
        self._metrics.oldest_due_seconds.set(depth.oldest_due_s)
        reason = self._outage.reason
        if reason is None and not self._noted_outage:
            return
        async with self._claims.connection() as connection:
            name, claimer = self._claims.queue.outbox.name, self._claims.claimer
            await outages.note(connection, name, claimer, self._address, reason)
        self._noted_outage = reason is not None
