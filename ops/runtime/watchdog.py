"""Ends a process that has work but makes no progress, and logs the reason.

It runs in its own thread, because the event loop itself may be stuck.
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

from ops.runtime.exit_codes import ExitCode
from schemas.timing import Check, Stillness

log = structlog.get_logger(__name__)

_EVENT_LOOP = "event_loop"
_SHORTEST_S, _LONGEST_S = 0.25, 10.0
_ANSWER_WITHIN_S = 1.0
"""When another check ends the process, a loop that does not beat within this time is named with its reason."""


class LoopBeat:
    """Detects an event loop that is blocked. `beat` runs on the loop, `check` in any thread."""

    def __init__(self, limit_s: float) -> None:
        self._stillness = Stillness(limit_s)
        self._beats = 0

    async def beat(self) -> None:
        """Count up several times per second, until cancelled."""
        while True:
            self._beats += 1
            await asyncio.sleep(_SHORTEST_S)

    def is_silent(self, stopped: threading.Event) -> bool:
        """Wait up to a second for a beat, or for `stopped`. Returns whether there was none."""
        before, deadline = self._beats, time.monotonic() + _ANSWER_WITHIN_S
        while self._beats == before:
            if time.monotonic() >= deadline:
                return True
            if stopped.wait(_SHORTEST_S / 5):
                break
        return False

    def check(self) -> str | None:
        still = self._stillness.look(time.monotonic(), self._beats)
        return None if still is None else f"the event loop has not turned for {still:.0f} s"


class Watchdog:
    """Runs the checks one after the other, several times within `limit_s`. The first reason ends the process."""

    def __init__(
        self, checks: Mapping[str, Check], *, limit_s: float, end: Callable[[str], None] | None = None
    ) -> None:
        self._loop_beat = LoopBeat(limit_s)
        self._checks = {_EVENT_LOOP: self._loop_beat.check, **checks}
        self._every_s = min(max(limit_s / 8, _SHORTEST_S), _LONGEST_S)
        self._end = end or end_at_once
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._beat: asyncio.Task[None] | None = None
        self._reason: str | None = None

    def trouble(self) -> str | None:
        """Return for /livez why this process is about to end, else None."""
        return self._reason

    def start(self) -> None:
        """Start the thread. Call it on the event loop to watch."""
        self._beat = asyncio.create_task(self._loop_beat.beat())
        self._thread.start()

    async def stop(self) -> None:
        """Stop the watch. Safe to call at any time. From then on the caller must limit the time of its own stop."""
        self._stopped.set()
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.to_thread(self._thread.join, _LONGEST_S)

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s):
            for name, check in self._checks.items():
                # Check the event loop after each check: one that waits for brokers must not hide a blocked loop.
                for source, reason in ((name, check()), (_EVENT_LOOP, self._loop_beat.check())):
                    if reason is None:
                        continue
                    found = f"{source}: {reason}"
                    # A blocked loop also stops what the other checks watch, and one of them may reach its limit first.
                    if source != _EVENT_LOOP and self._loop_beat.is_silent(self._stopped):
                        found += f"; {_EVENT_LOOP}: the event loop has not turned for at least {_ANSWER_WITHIN_S:.0f} s"
                    if not self._stopped.is_set():
                        self._reason = found
                        self._end(found)
                        return


def end_at_once(reason: str) -> None:
    """Log the reason and all stacks, then exit with 70 at once.

    An orderly stop would wait for the stuck part, and that of a worker would commit offsets.
    """
    log.critical("process.stuck", action="process.stuck", reason=reason, exit_code=int(ExitCode.STUCK))
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.STUCK)
