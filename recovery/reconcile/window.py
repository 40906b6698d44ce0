"""Beside the flow: which stretch of time a reconciliation looks at, and in which slices.

Stripe lists the newest first, and what is missing has to go onto the log oldest first. So the window is walked from its
start in slices of time; each is read whole, turned round, and settled before the next. What is held in memory is one
slice, and a run that was killed goes on at the slice in hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sinks.stripe_api.listing import Listed, Lists

DEFAULT = timedelta(hours=24)
OVERLAP = timedelta(hours=1)
"""How far a window reaches back into the one before it."""
KEPT = timedelta(days=30)
"""For how long Stripe lists an event: https://docs.stripe.com/api/events/list"""
GRACE = timedelta(minutes=5)
"""What is younger may still be on its way to us, and is left for the next run."""

MOST = 2000
"""Events in a slice, unless they are all of one second."""
_FIRST, _NARROWEST, _WIDEST = timedelta(hours=1), timedelta(seconds=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """[start, end), in whole seconds; UTC."""

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
    """Where nothing is asked for: the last day, or since the last window that was settled if that is longer ago."""
    if since is None:
        since = now - DEFAULT
        if settled_until is not None:
            since = min(since, settled_until - OVERLAP)
    start = max(since, now - KEPT)
    end = min(until or now, now - grace)
    return Window(start.replace(microsecond=0), max(end, start).replace(microsecond=0))


async def slices(
    lists: Lists, window: Window, account: str, params: Mapping[str, Any], *, most: int = MOST
) -> AsyncIterator[Slice]:
    """The window's slices in their order; they get narrower and wider with what there is. Raises ApiTrouble."""
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
    """The oldest first; None if there are more than `most`."""
    created = {"gte": int(start.timestamp()), "lt": int(end.timestamp())}
    found: list[Listed] = []
    async for page in lists.pages("/v1/events", {**params, "created": created}, account):
        found += page.items
        if most is not None and len(found) + page.has_more > most:
            return None
    return found[::-1]


def _whole_seconds(width: timedelta) -> timedelta:
    return timedelta(seconds=width // timedelta(seconds=1))
