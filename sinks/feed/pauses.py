"""Pauses receivers that are away, each by itself, so that no other one waits for their timeouts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from schemas.timing import pause_while_down
from sinks.feed.answers import Answer

_RUN = 3
"""A receiver that fails with any answer for this many notifications in a row pauses, too."""


class Pauses:
    """The receivers that this dispatcher sends nothing to at present. After a pause, one notification checks."""

    def __init__(
        self, chance: Callable[[], float], clock: Callable[[], float] = time.monotonic, *, at_once: int | None = None
    ) -> None:
        """`at_once` limits the requests to one receiver, so that a slow one leaves lanes to the others."""
        self._chance = chance
        self._clock = clock
        self._at_once = at_once
        self._running: Counter[str] = Counter()
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._checking: set[str] = set()

    def paused(self) -> list[str]:
        """Returns the receivers to which nothing is sent now."""
        now = self._clock()
        busy = [name for name, count in self._running.items() if self._at_once is not None and count >= self._at_once]
        return [*busy, *(name for name, until in self._until.items() if now < until or name in self._checking)]

    def begin(self, name: str) -> None:
        """A notification to this receiver is being sent."""
        self._running[name] += 1
        if name in self._until:
            self._checking.add(name)

    def end(self, name: str, answer: Answer) -> None:
        """The receiver has answered, or not."""
        self._checking.discard(name)
        self._running[name] -= 1
        if answer.is_accepted:
            self._failures.pop(name, None)
            self._until.pop(name, None)
            return
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        if answer.is_about_all or failures >= _RUN:
            pause = pause_while_down(failures, self._chance())
            self._until[name] = self._clock() + pause.total_seconds()
