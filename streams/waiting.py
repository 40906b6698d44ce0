"""Decides when an event that refers to an unknown object is processed again, and for how long (behaviours.md D3).

    look           1      2        3        4         5         6         7        8 …
    pause after    30 s   2 min    10 min   1 h       6 h       12 h      12 h     12 h …
    since the 1st  0      30 s     2.5 min  12.5 min  1 h 13    7 h 13    19 h 13  31 h 13 …

A look is one processing of the event. The first pauses are short, because most missing objects were sent in the same
second and are in another partition. The limit counts from the first look, not from the receipt: after a long stop the
whole backlog is old, and the missing object may follow right after the event. The last look is at the limit; there the
event is dead, or it is applied without the object (`at_last`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from schemas.event import Event
from schemas.state import Timer
from schemas.timer import RETRY, retry_key

_PAUSES = (
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=6),
    timedelta(hours=12),
)


def pause_after(look: int) -> timedelta:
    """Returns the pause after look number `look` (from 1)."""
    return _PAUSES[min(look, len(_PAUSES)) - 1]


@dataclass(frozen=True, slots=True)
class Stay:
    """An event's wait: the number of this look (from 1) and the time of the first (UTC)."""

    look: int
    since: datetime

    def until(self, now: datetime, limit: timedelta) -> datetime | None:
        """Returns the time of the next look (UTC), or None once the limit is reached."""
        last = self.since + limit
        return min(now + pause_after(self.look), last) if now < last else None


def stay_of(timer: Timer | None, now: datetime) -> Stay:
    """Reads the stay from the event's timer; without a timer it begins now."""
    if timer is None:
        return Stay(1, now)
    return Stay(int(timer.data["look"]) + 1, datetime.fromisoformat(timer.data["since"]))


def retry_timer(event: Event[Any], stay: Stay, until: datetime) -> Timer:
    """Returns the timer that has the event processed again at `until`. An event has one timer for all its looks."""
    return Timer(
        timer_key=retry_key(event.id),
        account=event.account,
        customer_id=event.customer_id or "",
        kind=RETRY,
        subject=event.id,
        due_at=until,
        livemode=event.livemode,
        data={"look": stay.look, "since": stay.since.isoformat()},
        event_id=event.id,
    )
