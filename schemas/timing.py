"""Pauses between tries, clocks, and the detection of missing progress."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_FIRST_S, _LONGEST_S = 0.1, 15.0


def pause(attempt: int, *, spread: float | None = None) -> float:
    """Returns the seconds to wait after try number `attempt` (from 1). `spread` in [0, 1) replaces the random value."""
    longest: float = min(_LONGEST_S, _FIRST_S * 2 ** min(attempt - 1, 20))
    return longest * (0.5 + 0.5 * (random.random() if spread is None else spread))  # noqa: S311  # no secret


SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Timetable:
    """Pauses that grow by `factor`, and the number of tries."""

    first: timedelta
    factor: int
    tries: int
    longest: timedelta = timedelta(days=1)

    def pause_after(self, tries: int, chance: float) -> timedelta | None:
        """Returns the pause after this many tries (1 or more), or None after the last.

        `chance` in [0, 1) varies it between 90 % and 110 % of the timetable.
        """
        return None if tries >= self.tries else self.pause(tries, chance)

    def pause(self, tries: int, chance: float) -> timedelta:
        """Does what `pause_after` does, also after the last try: for what must not be given up."""
        return spread(min(self.first * int(self.factor ** min(tries - 1, 16)), self.longest), chance)


_WHILE_DOWN = Timetable(first=timedelta(seconds=1), factor=2, tries=1, longest=timedelta(seconds=60))


def pause_while_down(failures: int, chance: float) -> timedelta:
    """Returns the pause after `failures` failed calls of a server in a row (1 or more): 1, 2, 4 … 60 seconds."""
    return _WHILE_DOWN.pause(failures, chance)


def spread(pause: timedelta, chance: float) -> timedelta:
    """Returns the pause, up to a tenth shorter or longer, so that simultaneous failures are not retried together."""
    return pause * (1 - SPREAD + 2 * SPREAD * chance)


Check = Callable[[], str | None]
"""Returns None, or the reason why the process must end. The watchdog's thread calls it; it may block briefly."""


class Stillness:
    """Measures the time without progress. `token` is any value that changes whenever there is progress.

    One call adds at most a quarter of the limit, so that a process that a signal has stopped does not count as stuck.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._token: Hashable = object()
        self._looked_at = 0.0
        self._still_s = 0.0

    def look(self, now: float, token: Hashable, *, is_excused: bool = False) -> float | None:
        """Returns the seconds without progress if they exceed the limit, else None. `is_excused` restarts the count."""
        passed, self._looked_at = now - self._looked_at, now
        if is_excused or token != self._token:
            self._token, self._still_s = token, 0.0
            return None
        self._still_s += min(passed, self._limit_s / 4)
        return self._still_s if self._still_s > self._limit_s else None


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)
