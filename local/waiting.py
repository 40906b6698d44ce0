"""Waits until something that another process or task does has happened. It cannot signal the caller, so this polls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from schemas.errors import BillingError

T = TypeVar("T")

_LOG_BYTES = 3000


class Waited(Protocol):
    """The process that does what is waited for, as subprocess.Popen."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...


class TooLate(BillingError, TimeoutError):
    """It did not happen in time, or the process that does it has ended. The message ends with that process's log."""


def wait_until(
    condition: Callable[[], T],
    what: str = "a condition",
    *,
    within_s: float = 60.0,
    every_s: float = 0.05,
    process: Waited | None = None,
    log: Path | None = None,
) -> T:
    """Calls `condition` until it returns a true value, and returns that. Raises TooLate.

    `what` completes the message "waited 60 s for …". `process` is the one that is waited for, `log` is its log.
    """
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        _check(deadline, what, within_s, process, log)
        time.sleep(every_s)
    return found


async def eventually(
    condition: Callable[[], Awaitable[object] | object],
    what: str = "a condition",
    *,
    within_s: float = 60.0,
    every_s: float = 0.02,
    process: Waited | None = None,
    log: Path | None = None,
) -> Any:
    """Does what `wait_until` does, for a condition that may be a coroutine. It is cancelled when the time is over."""
    deadline = time.monotonic() + within_s
    try:
        async with asyncio.timeout(within_s) as limit:
            while True:
                answer = condition()
                found = await answer if isinstance(answer, Awaitable) else answer
                if found:
                    return found
                _check(deadline, what, within_s, process, log)
                await asyncio.sleep(every_s)
    except TimeoutError as error:
        if isinstance(error, TooLate) or not limit.expired():
            raise
        raise TooLate(_late(what, within_s, log)) from None


def _check(deadline: float, what: str, within_s: float, process: Waited | None, log: Path | None) -> None:
    if process is not None and process.poll() is not None:
        raise TooLate(f"the process ended with {process.returncode} before {what}{end_of(log)}")
    if time.monotonic() > deadline:
        raise TooLate(_late(what, within_s, log))


def _late(what: str, within_s: float, log: Path | None) -> str:
    return f"waited {within_s:.0f} s for {what}{end_of(log)}"


def end_of(log: Path | None) -> str:
    """Returns a line feed and the last lines of the log; nothing if there is none."""
    if log is None or not log.exists():
        return ""
    return "\n" + log.read_bytes()[-_LOG_BYTES:].decode(errors="replace")
