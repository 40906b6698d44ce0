"""Decides what a receiver's answer means for a notification.

    try          1    2    3     4     5      6      7       8      9      10 … 16
    since 1st    0    5 s  20 s  65 s  3 min  10 min 30 min  1½ h   4½ h   every 8 h, for 3 days

Each answer but 2xx is a failure; redirects are not followed. 410 means that the receiver wants no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from schemas.timing import spread
from sinks.outbox.verdicts import Done, Failed, RetryAt

GIVE_UP_AFTER = timedelta(days=3)
_FIRST, _FACTOR, _LONGEST = timedelta(seconds=5), 3, timedelta(hours=8)
_GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver answered, or why there is no answer. `status` is 0 then."""

    status: int
    reason: str = ""

    @property
    def is_accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        return self.status == _GONE

    @property
    def is_about_all(self) -> bool:
        """Whether the next notification would fail as well: the receiver is away or overloaded."""
        return self.status in (0, 429, 502, 503, 504)

    def __str__(self) -> str:
        return self.reason or f"HTTP {self.status}"


def pause_after(tries: int, chance: float) -> timedelta:
    """Returns the pause after this many tries (1 or more). `chance` in [0, 1) varies it by a tenth."""
    return spread(min(_FIRST * int(_FACTOR ** min(tries - 1, 12)), _LONGEST), chance)


def verdict_of(
    answer: Answer, *, tries: int, age: timedelta, chance: float, gives_up: bool = True
) -> Done | RetryAt | Failed:
    """Returns the verdict on this try. `age` is the time since the row was queued."""
    if answer.is_accepted:
        return Done(details={"status": answer.status})
    if answer.is_gone:
        return Failed(f"{answer}: the receiver wants no more notifications")
    pause = pause_after(tries, chance)
    if gives_up and age + pause > GIVE_UP_AFTER:
        return Failed(f"after {tries} tries in {age // timedelta(hours=1)} hours: {answer}")
    return RetryAt(pause, str(answer))
