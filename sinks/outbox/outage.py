"""Pauses a dispatcher while the other side (mail server, Stripe) accepts nothing. Rows lose no tries during a pause."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

from schemas.timing import pause_while_down


class Outage:
    """The outage state shared by all lanes of one dispatcher. After each pause the other side is checked again."""

    def __init__(self, clock: Callable[[], datetime], chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._until: datetime | None = None
        self._reason: str | None = None
        self.is_refusal = False
        """Whether the other side answers but refuses what is delivered. Such an outage ends with the next success."""
        self.failures = 0
        """Consecutive failed checks."""

    @property
    def reason(self) -> str | None:
        """Why the dispatcher is paused, or None."""
        return self._reason

    @property
    def is_on(self) -> bool:
        return self._until is not None

    @property
    def is_pausing(self) -> bool:
        """Whether the current pause has not ended yet."""
        return self._until is not None and self._clock() < self._until

    @property
    def left_s(self) -> float:
        """Seconds until the next check; 0 without an outage."""
        return max((self._until - self._clock()).total_seconds(), 0.0) if self._until is not None else 0.0

    def begin(self, reason: str, at_least: timedelta = timedelta(0), *, is_refusal: bool = False) -> timedelta | None:
        """Start a pause and return its length; None if another lane has already started one for this outage.

        The pause grows with each consecutive failure and is never shorter than `at_least`.
        """
        if self.is_pausing:
            return None
        self.failures += 1
        pause = max(pause_while_down(self.failures, self._chance()), at_least)
        self._until, self._reason, self.is_refusal = self._clock() + pause, reason, is_refusal
        return pause

    def end(self) -> bool:
        """End the outage because the other side responds. Returns whether there was one.

        Does not reset the count of failures; `succeeded` does.
        """
        was_on = self.is_on
        self._until, self._reason, self.is_refusal = None, None, False
        return was_on

    def succeeded(self) -> None:
        """Reset the count of failures after a complete exchange: the next outage starts with the shortest pause."""
        self.failures = 0
