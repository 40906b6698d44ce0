"""The loop of a dispatcher: a few lanes side by side, each claiming and doing its own small handfuls, until stopped."""

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
"""One claim and what it holds, for the lane of this number; whether there was anything to do."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How eager, in seconds of real time."""

    poll_s: float = 3.0
    store_pause_s: float = 2.0
    finish_s: float = 30.0
    """For what is in hand when told to stop."""
    stuck_s: float = 900.0
    """Without a turn for so long, a lane hangs: a try and its mark may take as long as a claim, no longer."""


class OutboxLoop:
    """`run` until stopped; `store_trouble` and `stuck` tell how it goes. `name` begins the actions of the log."""

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
        """Look at the outbox now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish what is in hand, give back the rest, return from `run`."""
        self._stopping.set()
        self._wake.set()

    def stuck(self) -> str | None:
        """A reason to restart this process, or None."""
        idle = time.monotonic() - min(self._turns)
        return f"{self._name}: a lane has made no progress for {idle:.0f} s" if idle > self._pace.stuck_s else None

    def progress(self, number: int) -> None:
        """This lane is alive."""
        self._turns[number] = time.monotonic()

    async def run(
        self, turn: Turn, *, watch: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Returns after `stop`; then `close` is awaited, if there is one. `watch` runs beside the lanes, once per poll.

        Raises what nobody foresaw: better to end loudly than to go on half alive.
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
                log.warning("what is in hand did not end in time", action=action, lanes=len(late))
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
        """It is done outside, so Postgres must hear of it: tried until the claim runs out. Raises StoreUnavailable."""
        while True:
            try:
                return await mark()
            except StoreUnavailable as error:
                self.store_trouble = str(error)
                if self._clock() >= until:
                    raise
                action = f"{self._name}.mark_failed"
                log.warning("done, but cannot be marked so yet", action=action, key=key, error=str(error))
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
                log.warning("the outbox does not answer", action=action, error=str(error))
                await self._pause(self._pace.store_pause_s)
                continue
            if not busy:
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        if self._outage.is_on:  # new work is no reason to knock earlier
            await self._pause(min(self._pace.poll_s, max(self._outage.left_s, 0.05)))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._pace.poll_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _watch(self, watch: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):  # the lanes say so, and /readyz
                await watch()
            await asyncio.sleep(self._pace.poll_s)
