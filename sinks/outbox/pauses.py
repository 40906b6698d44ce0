"""Between two tries of whatever leaves from an outbox: how long to wait."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

SPREAD = 0.1
DOWN_FIRST = timedelta(seconds=1)
DOWN_LONGEST = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Timetable:
    """Pauses that grow by `factor`, and how many tries there are."""

    first: timedelta
    factor: int
    tries: int

    def pause_after(self, tries: int, chance: float) -> timedelta | None:
        """The pause after this many tries (1 or more), or None when that was the last.

        `chance` in [0, 1) places it between 90 % and 110 % of the timetable.
        """
        if tries >= self.tries:
            return None
        return spread(self.first * int(self.factor ** (tries - 1)), chance)


def pause_while_down(failures: int, chance: float) -> timedelta:
    """Before the next look at a server that did not answer `failures` times (1 or more): 1, 2, 4 … 60 seconds."""
    return spread(min(DOWN_FIRST * int(2 ** min(failures - 1, 10)), DOWN_LONGEST), chance)


def spread(pause: timedelta, chance: float) -> timedelta:
    """Up to a tenth shorter or longer, so that what failed together does not come back together."""
    return pause * (1 - SPREAD + 2 * SPREAD * chance)
