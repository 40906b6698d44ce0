"""While the other side of an outbox (mail server, Stripe) takes nothing: nobody tries, no row loses a try for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

from schemas.timing import pause_while_down


class Outage:
    """Seen by all lanes of one dispatcher. Looked at again after each pause, and over when `end` says so."""

    def __init__(self, clock: Callable[[], datetime], chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._until: datetime | None = None
        self._reason: str | None = None
        self.failures = 0
        """Looks in a row that failed."""

    @property
    def reason(self) -> str | None:
        """Why nothing is tried, or None."""
        return self._reason

    @property
    def is_on(self) -> bool:
        return self._until is not None

    @property
    def is_pausing(self) -> bool:
        """Whether it is too early to look again."""
        return self._until is not None and self._clock() < self._until

    @property
    def left_s(self) -> float:
        """Seconds to the next look."""
        return max((self._until - self._clock()).total_seconds(), 0.0) if self._until is not None else 0.0

    def begin(self, reason: str, at_least: timedelta = timedelta(0)) -> timedelta | None:
        """The pause from now on; None when several lanes met the same outage and it is paused for already."""
        if self.is_pausing:
            return None
        self.failures += 1
        pause = max(pause_while_down(self.failures, self._chance()), at_least)
        self._until, self._reason = self._clock() + pause, reason
        return pause

    def end(self) -> bool:
        """The other side answers; whether that is news. `succeeded` forgets the failures, an answer alone does not."""
        was_on = self.is_on
        self._until, self._reason = None, None
        return was_on

    def succeeded(self) -> None:
        """A whole exchange went well: the next outage starts with the shortest pause."""
        self.failures = 0
