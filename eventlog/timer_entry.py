"""The record of a timer's event, which the scheduler appends at the timer's time, and the console on request."""

from __future__ import annotations

from datetime import datetime

from eventlog.entry import Entry
from schemas.record import Source
from schemas.state import Timer
from schemas.timer import timer_event


def timer_entry(timer: Timer, now: datetime) -> Entry:
    """Returns the record, with the key of the customer's events. `now` is when it is appended."""
    event = timer_event(timer)
    return Entry.of(event, source=Source.TIMER, received_at=now, livemode=timer.livemode, account=timer.account)
