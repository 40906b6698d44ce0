"""How many rows a lane claims: more while rows leave quickly, so that their common work is done once for many."""

from __future__ import annotations

from dataclasses import dataclass

QUICK_S = 1.0
"""A claim that took longer is followed by one of the smallest size, so that no row waits long for a slow one."""


@dataclass(slots=True)
class ClaimSize:
    """The size of a lane's next claim. It doubles with each full claim that was delivered within QUICK_S."""

    smallest: int
    largest: int
    size: int = 0
    is_full: bool = False
    """Whether the last claim was full and quickly delivered: then more rows are probably due."""

    def __post_init__(self) -> None:
        self.size = self.smallest

    def delivered(self, claimed: int, seconds: float) -> None:
        """The lane has delivered all rows of a claim."""
        self.is_full = claimed >= self.size and seconds < QUICK_S
        if seconds >= QUICK_S:
            self.size = self.smallest
        elif self.is_full:
            self.size = max(self.smallest, min(2 * self.size, self.largest))

    def interrupted(self) -> None:
        """The lane has stopped before the end of a claim."""
        self.is_full, self.size = False, self.smallest
