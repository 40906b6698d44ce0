"""Timers: a calendar of the next 14 days by kind, and the list."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from console import params
from console.reads import panels
from console.web import Answer, Context, Page, get
from sinks.postgres.lists import Found, outboxes

DAYS = 14


def by_day(calendar: list[Found], today: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """Returns the days, and one entry per kind with its counts by day."""
    days = [today + timedelta(days=at) for at in range(DAYS)]
    kinds: dict[str, dict[Any, int]] = {}
    for row in calendar:
        kinds.setdefault(row["kind"], {})[row["day"]] = row["timers"]
    return days, [
        {"kind": kind, "counts": [counts.get(day, 0) for day in days], "total": sum(counts.values())}
        for kind, counts in sorted(kinds.items())
    ]


async def page(context: Context) -> Answer:
    """Shows what is due and when."""
    query, ask = context.query, context.console.reads.ask
    after, kind = params.place(query, "after"), params.text(query, "kind")
    found = await panels(
        {
            "calendar": ask(lambda c: outboxes.calendar(c, days=DAYS)),
            "page": ask(lambda c: outboxes.timers(c, kind=kind, after=after)),
        }
    )
    calendar, listed = found["calendar"], found["page"]
    is_page = isinstance(listed, tuple)
    timers, more = listed if is_page else (listed, None)
    days, kinds = by_day(calendar, context.console.clock().date()) if isinstance(calendar, list) else ([], calendar)
    names = [f"#{day:%d %b}" for day in days]
    data = {
        "days": days,
        "names": names,
        "kinds": kinds,
        "timers": timers,
        "next": params.place_text(*more) if more else None,
    }
    return Page("timers.j2", "Timers", data)


ROUTES = [get("/timers", page)]
