"""Beside each process: ends it, saying why, when it has work and does not move. Liveness means progress.

In a thread of its own with a connection of its own, since what is stuck may be the event loop itself.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping

import structlog

from schemas.timing import Check, Stillness

log = structlog.get_logger(__name__)

EXIT_STUCK = 70
"""EX_SOFTWARE, as a worker that cannot go on."""


_EVENT_LOOP = "event_loop"
_SHORTEST_S, _LONGEST_S = 0.25, 10.0


class LoopBeat:
    """Whether the event loop turns: `beat` runs on it, `check` anywhere."""

    def __init__(self, limit_s: float) -> None:
        self._stillness = Stillness(limit_s)
        self._beats = 0

    async def beat(self) -> None:
        """Runs until cancelled."""
        while True:
            self._beats += 1
            await asyncio.sleep(_SHORTEST_S)

    def check(self) -> str | None:
        still = self._stillness.look(time.monotonic(), self._beats)
        return None if still is None else f"the event loop has not turned for {still:.0f} s"


class Watchdog:
    """Asks its checks in turn, several times within `limit_s`, from `start` to `stop`; the first reason ends it all."""

    def __init__(
        self, checks: Mapping[str, Check], *, limit_s: float, end: Callable[[str], None] | None = None
    ) -> None:
        self._loop_beat = LoopBeat(limit_s)
        self._checks = {_EVENT_LOOP: self._loop_beat.check, **checks}
        self._every_s = min(max(limit_s / 8, _SHORTEST_S), _LONGEST_S)
        self._end = end or end_at_once
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._beat: asyncio.Task[None] | None = None
        self._reason: str | None = None

    def trouble(self) -> str | None:
        """For /livez: why this process is about to end."""
        return self._reason

    def start(self) -> None:
        """On the event loop that is to be watched."""
        self._beat = asyncio.create_task(self._loop_beat.beat())
        self._thread.start()

    async def stop(self) -> None:
        """Safe to call at any time; an orderly end is bounded by whoever asked for it."""
        self._asked.set()
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.to_thread(self._thread.join, _LONGEST_S)

    def _watch(self) -> None:
        while not self._asked.wait(self._every_s):
            for name, check in self._checks.items():
                # The event loop in between too: a check that waits for brokers must not hide that it stands.
                for asked, reason in ((name, check()), (_EVENT_LOOP, self._loop_beat.check())):
                    if reason is not None and not self._asked.is_set():
                        self._reason = f"{asked}: {reason}"
                        self._end(self._reason)
                        return


def end_at_once(reason: str) -> None:
    """No orderly stop: it would wait for what is stuck, and a worker's would commit offsets."""
    log.critical("process.stuck", action="process.stuck", reason=reason, exit_code=EXIT_STUCK)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STUCK)
