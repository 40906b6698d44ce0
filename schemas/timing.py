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


DOWN_FIRST = timedelta(seconds=1)


DOWN_LONGEST = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Timetable:
    """Pauses that grow by `factor`, and the number of tries."""

    first: timedelta
    factor: int
    tries: int

    def pause_after(self, tries: int, chance: float) -> timedelta | None:
        """Returns the pause after this many tries (1 or more), or None after the last.

        `chance` in [0, 1) varies it between 90 % and 110 % of the timetable.
        """
        if tries >= self.tries:
            return None
        return spread(self.first * int(self.factor ** (tries - 1)), chance)


def pause_while_down(failures: int, chance: float) -> timedelta:
    """Returns the pause after `failures` failed calls of a server in a row (1 or more): 1, 2, 4 … 60 seconds."""
    return spread(min(DOWN_FIRST * int(2 ** min(failures - 1, 10)), DOWN_LONGEST), chance)


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
