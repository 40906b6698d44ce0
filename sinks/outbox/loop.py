"""Runs a dispatcher's lanes: concurrent loops that claim and process small batches of rows until stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from schemas.errors import StoreUnavailable
from sinks.outbox.outage import Outage

log = structlog.get_logger(__name__)

Turn = Callable[[int], Awaitable[bool]]
"""Claims and processes one batch for the lane with this number. Returns whether to continue without a pause."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and limits of the loop, in seconds of real time."""

    poll_s: float = 3.0
    store_pause_s: float = 2.0
    finish_s: float = 30.0
    """After `stop`, time for rows being processed to finish."""
    stuck_s: float = 900.0
    """A lane without progress for this long counts as stuck. A try and storing its result take at most one claim."""


class OutboxLoop:
    """Runs `count` lanes until stopped. `store_trouble` and `stuck` report problems.

    `name` is the prefix of the `action` values in the log.
    """

    def __init__(self, name: str, count: int, pace: Pace, outage: Outage, *, clock: Callable[[], datetime]) -> None:
        self._name = name
        self._pace = pace
        self._outage = outage
        self._clock = clock
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._turns = [time.monotonic()] * count
        self.store_trouble: str | None = "the outbox has not been read yet"
        """Why the outbox cannot be read, or None."""

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def wake(self) -> None:
        """Check the outbox now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the rows being processed, release the other claims, and return from `run`."""
        self._stopping.set()
        self._wake.set()

    def stuck(self) -> str | None:
        """Return the reason why this process must be restarted, or None."""
        idle = time.monotonic() - min(self._turns)
        return f"{self._name}: a lane has made no progress for {idle:.0f} s" if idle > self._pace.stuck_s else None

    def progress(self, number: int) -> None:
        """Record that this lane makes progress (see `stuck`)."""
        self._turns[number] = time.monotonic()

    async def run(
        self, turn: Turn, *, watch: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Run the lanes until `stop`, then await `close` if given. `watch` runs concurrently, once per `poll_s`.

        If a lane or `watch` ends with an unexpected exception, all lanes stop and the exception is raised, so that the
        process ends and is restarted.
        """
        lanes = [asyncio.create_task(self._go_on(i, turn)) for i in range(len(self._turns))]
        watcher = asyncio.create_task(self._watch(watch))
        stopped = asyncio.create_task(self._stopping.wait())
        tasks: Sequence[asyncio.Task[object]] = [*lanes, watcher, stopped]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            _, late = await asyncio.wait(lanes, timeout=self._pace.finish_s)
            if late:
                action = f"{self._name}.stopped_amid"
                log.warning("rows being processed did not finish in time", action=action, lanes=len(late))
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            if close is not None:
                await close()
        for end in ended:
            if isinstance(end, Exception):
                raise end

    async def insist(self, mark: Callable[[], Awaitable[bool]], key: str, until: datetime) -> bool:
        """Store a result with `mark`, and retry until the claim expires (`until`). Returns the result of `mark`.

        The row has already taken effect at the other side, so a lost result would repeat it. Raises StoreUnavailable.
        """
        while True:
            try:
                return await mark()
            except StoreUnavailable as error:
                self.store_trouble = str(error)
                if self._clock() >= until:
                    raise
                action = f"{self._name}.mark_failed"
                log.warning(
                    "cannot store the result of a processed row, retrying", action=action, key=key, error=str(error)
                )
                await asyncio.sleep(self._pace.store_pause_s)

    async def _go_on(self, number: int, turn: Turn) -> None:
        while not self._stopping.is_set():
            self.progress(number)
            self._wake.clear()
            try:
                busy = await turn(number)
            except StoreUnavailable as error:
                self.store_trouble = str(error)
                action = f"{self._name}.store_unavailable"
                log.warning("cannot read the outbox", action=action, error=str(error))
                await self._pause(self._pace.store_pause_s)
                continue
            if not busy:
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        if self._outage.is_on:  # new rows do not shorten the pause of an outage
            await self._pause(min(self._pace.poll_s, max(self._outage.left_s, 0.05)))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._pace.poll_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _watch(self, watch: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):  # the lanes log this, and /readyz reports it
                await watch()
            await asyncio.sleep(self._pace.poll_s)
