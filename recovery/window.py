"""Chooses the time window of a reconciliation and divides it into slices.

Stripe lists the newest events first, but missing events must be appended oldest first. So the window is processed from
its start in slices of time: each slice is read completely, reversed and processed before the next. Only one slice is
held in memory, and an interrupted run resumes at the slice that was being processed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sinks.stripe_api.listing import Listed, Lists

DEFAULT = timedelta(hours=24)
OVERLAP = timedelta(hours=1)
"""How far a window overlaps the previous one."""
KEPT = timedelta(days=30)
"""How long Stripe lists an event: https://docs.stripe.com/api/events/list"""
GRACE = timedelta(minutes=5)
"""Younger events may not have been delivered yet; they are left to the next run."""

MOST = 2000
"""Maximum number of events in a slice. A slice of one second may have more."""
_FIRST, _NARROWEST, _WIDEST = timedelta(hours=1), timedelta(seconds=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """The time window [start, end) in whole seconds, UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Slice:
    """All events created in [start, end), the oldest first."""

    start: datetime
    end: datetime
    events: list[Listed]


def window_of(
    now: datetime, *, since: datetime | None, until: datetime | None, settled_until: datetime | None, grace: timedelta
) -> Window:
    """Return the window to reconcile.

    By default it starts 24 hours ago, or `OVERLAP` before `settled_until` if that is earlier. It never starts more than
    `KEPT` ago, and ends at least `grace` ago.
    """
    if since is None:
        since = now - DEFAULT
        if settled_until is not None:
            since = min(since, settled_until - OVERLAP)
    start = max(since, now - KEPT)
    end = min(until or now, now - grace)
    return Window(start.replace(microsecond=0), max(end, start).replace(microsecond=0))


def is_joined(window: Window, now: datetime, settled_until: datetime | None) -> bool:
    """Return whether a run over the window leaves no gap after `settled_until`, the end of the last complete run.

    Without one, the first window begins 24 hours ago. What Stripe does not list any more is no gap.
    """
    due = settled_until if settled_until is not None else now - DEFAULT
    return window.start <= max(due, now - KEPT)


async def slices(
    lists: Lists, window: Window, account: str, params: Mapping[str, Any], *, most: int = MOST
) -> AsyncIterator[Slice]:
    """Yield the slices of the window in order. Their width adapts to the number of events. Raises ApiTrouble."""
    start, width = window.start, _FIRST
    while start < window.end:
        end = min(start + width, window.end)
        events = await _events(lists, start, end, account, params, most if width > _NARROWEST else None)
        if events is None:
            width = max(_whole_seconds(width / 4), _NARROWEST)
            continue
        yield Slice(start, end, events)
        start = end
        if len(events) < most / 4:
            width = min(width * 2, _WIDEST)


async def _events(
    lists: Lists, start: datetime, end: datetime, account: str, params: Mapping[str, Any], most: int | None
) -> list[Listed] | None:
    """Return the events created in [start, end), the oldest first, or None if there are more than `most`."""
    created = {"gte": int(start.timestamp()), "lt": int(end.timestamp())}
    found: list[Listed] = []
    async for page in lists.pages("/v1/events", {**params, "created": created}, account):
        found += page.items
        if most is not None and len(found) + page.has_more > most:
            return None
    return found[::-1]


def _whole_seconds(width: timedelta) -> timedelta:
    return timedelta(seconds=width // timedelta(seconds=1))
