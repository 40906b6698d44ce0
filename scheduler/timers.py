"""Appends due timers to the log, each as an event of its customer (behaviours.md D9).

    lock ─▶ due, the longest overdue first ─▶ append, wait for Kafka ─▶ mark `fired` ─▶ commit ─▶ sleep

If the process dies between append and commit, the next turn appends the same events again with the same ids, and the
ledger drops them. The timer's rule decides what a timer does, after every event that was on the log before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import orjson
import structlog
from prometheus_client import Counter, Gauge

from eventlog.append import EventAppender
from eventlog.entry import Entry
from eventlog.timer_entry import timer_entry
from scheduler.due_timers import DueTimers, Turn, WaitingEvent
from schemas.errors import Transient
from schemas.record import MAX_RECORD_BYTES, Source
from schemas.state import Timer
from schemas.statuses import TimerStatus
from schemas.timer import RETRY
from schemas.timing import pause

log = structlog.get_logger(__name__)

BATCH = 500
POLL_S = 5.0
"""Longest sleep. A notification ends it early. Limits the delay after a lost notification or a scheduler's death."""
_STUCK_S = 120.0
"""Longer than the sum of all timeouts in one turn."""

FIRED = Counter("billing_timers_fired", "Timers appended to the log, by kind", ["kind"])
FAILURES = Counter("billing_scheduler_failures", "Turns that failed and are retried", ["error"])
OVERDUE = Gauge("billing_timers_overdue_seconds", "How long the earliest pending timer has been due; 0 if none is due")

Clock = Callable[[], datetime]
Connect = Callable[[Callable[[], None]], Awaitable[DueTimers]]
"""Opens the connection. Its argument is called when timers have changed."""


class Scheduler:
    """The loop of one scheduler process. Any number may run; one works at a time."""

    def __init__(
        self,
        connect: Connect,
        event_log: EventAppender,
        *,
        clock: Clock,
        ahead: timedelta | None = None,
        batch: int = BATCH,
        poll_s: float = POLL_S,
    ) -> None:
        """With `ahead`, Postgres' clock decides what is due, moved by that time; else this process' own `clock`."""
        self._connect = connect
        self._event_log = event_log
        self._clock = clock
        self._ahead = ahead
        self._skew = timedelta(0)
        """How far the clock that decides is ahead of this process' own."""
        self._batch = batch
        self._poll_s = poll_s
        self._timers: DueTimers | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._failures = 0
        self._trouble: str | None = None
        self._last_turn = time.monotonic()

    def stop(self) -> None:
        """Makes `run` return after the current turn."""
        self._stopping = True
        self._wake.set()

    def trouble(self) -> str | None:
        """Returns why timers do not fire now, or None."""
        return self._trouble

    def stuck(self) -> str | None:
        """Returns a reason to restart this process, or None."""
        idle = time.monotonic() - self._last_turn
        return f"no turn has ended for {idle:.0f} s" if idle > _STUCK_S else None

    async def run(self) -> None:
        """Runs until `stop` is called. Retries transient errors; raises unforeseen ones."""
        try:
            while not self._stopping:
                self._wake.clear()
                await self._sleep(await self._turn_and_pause())
        finally:
            self.close()

    async def fire_due(self) -> int:
        """Fires due timers, at most one batch. Returns how many it fired or dropped; 0 if another scheduler works.

        Raises StoreUnavailable, LogUnavailable. No timer is marked after LogUnavailable.
        """
        timers = await self._connected()
        async with timers.turn() as turn:
            return await self._fire(turn) if turn is not None else 0

    def close(self) -> None:
        """Closes the connection. Safe to call at any time."""
        if self._timers is not None:
            self._timers.close()
            self._timers = None

    async def _turn_and_pause(self) -> float:
        """Runs one turn and returns the seconds to sleep after it."""
        try:
            settled = await self.fire_due()
            next_due = await (await self._connected()).next_due()
        except Transient as error:
            self.close()
            return self._failed(error)
        finally:
            self._last_turn = time.monotonic()
        self._trouble, self._failures = None, 0
        wait_s = (next_due - self._clock() - self._skew).total_seconds() if next_due is not None else self._poll_s
        OVERDUE.set(max(0.0, -wait_s))
        if settled:
            return 0.0
        return min(wait_s, self._poll_s) if wait_s > 0 else self._poll_s  # due, but another scheduler works

    def _failed(self, error: Transient) -> float:
        self._trouble = f"{type(error).__name__}: {error}"
        self._failures += 1
        pause_s = pause(self._failures)
        FAILURES.labels(type(error).__name__).inc()
        log.warning(
            "scheduler.retry", action="scheduler.retry", error=self._trouble, attempt=self._failures, wait_s=pause_s
        )
        return pause_s

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _connected(self) -> DueTimers:
        if self._timers is not None and self._timers.is_lost:
            self.close()
        if self._timers is None:
            self._timers = await self._connect(self._wake.set)
        return self._timers

    async def _fire(self, turn: Turn) -> int:
        now = self._clock() if self._ahead is None else await turn.now() + self._ahead
        self._skew = now - self._clock()
        due = await turn.due(now, self._batch)
        waiting = await turn.waiting_events([timer.subject for timer in due if timer.kind == RETRY])
        entries = {timer.timer_key: _entry(timer, waiting, now) for timer in due}
        fired = [timer for timer in due if entries[timer.timer_key] is not None]
        if fired:
            await self._event_log.append([entry for entry in entries.values() if entry is not None])
        await turn.mark(fired, TimerStatus.FIRED)
        await turn.mark([timer for timer in due if entries[timer.timer_key] is None], TimerStatus.DONE)
        _report(due, entries, now)
        return len(due)


def _entry(timer: Timer, waiting: dict[str, WaitingEvent], now: datetime) -> Entry | None:
    """Returns the record for a timer. None for a retry timer whose event no longer waits or is too large."""
    if timer.kind != RETRY:
        return timer_entry(timer, now)
    event = waiting.get(timer.subject)
    return waiting_entry(event, now) if event is not None else None


def waiting_entry(event: WaitingEvent, now: datetime) -> Entry | None:
    """Returns the record of a waiting event, like the original except for its source. None if it is too large.

    What was imported stays so: it is about the past, whenever it is applied, and no one is mailed about it.
    """
    value = event.payload.encode()
    if len(value) > MAX_RECORD_BYTES - 65_536:  # with room for key and headers
        # jsonb writes numbers in full: 1e300 becomes 301 digits. One such event must not block all timers after it.
        log.error("timer.event_too_large", action="timer.event_too_large", event_id=event.event_id, bytes=len(value))
        return None
    return Entry.of(
        orjson.loads(value),
        value,
        source=Source.IMPORT if event.source == Source.IMPORT else Source.TIMER,
        received_at=event.received_at or now,
        livemode=event.livemode,
        account=event.account,
        api_version=event.api_version,
        endpoint=event.endpoint or "",
    )


def _report(due: Sequence[Timer], entries: dict[str, Entry | None], now: datetime) -> None:
    for timer in due:
        is_fired = entries[timer.timer_key] is not None
        if is_fired:
            FIRED.labels(timer.kind).inc()
        action = "timer.fired" if is_fired else "timer.dropped"
        log.info(
            action,
            action=action,
            timer=timer.timer_key,
            kind=timer.kind,
            subject=timer.subject,
            customer=timer.customer_id,
            account=timer.account,
            late_s=round((now - timer.due_at).total_seconds(), 3),
        )
