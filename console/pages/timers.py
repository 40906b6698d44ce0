"""Timers: a calendar of the next 14 days by kind, the list, and forms that cancel, fire or move one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from console import params
from console.access import Action
from console.errors import NotFound, Refused
from console.reads import panels
from console.web import Answer, Context, Page, Redirect, get, post
from sinks.postgres.lists import Found, outboxes
from sinks.postgres.timer_changes import TimerChanges

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


async def change_form(context: Context) -> Answer:
    """Shows one pending timer with what can be done to it."""
    key = params.text(context.query, "timer")
    found = await context.console.reads.ask(lambda c: outboxes.timer(c, key))
    if found is None or found["status"] != "pending":
        raise NotFound(f"No timer {key} is pending.")
    data = {"timer": found, "seen_due": found["due_at"].isoformat(), "key": secrets.token_urlsafe(16), "what": _WHAT}
    return Page("timer_form.j2", "Change a timer", data)


async def change(context: Context) -> Answer:
    """Cancels, fires or moves a timer that is as the form showed it."""
    form = {name: str(value) for name, value in (await context.form()).items()}
    console, what = context.console, params.text(form, "what")
    key, seen_due, to = params.text(form, "timer"), params.time(form, "seen_due"), params.time(form, "to")
    reason = params.text(form, "reason") or None
    if what not in _WHAT or not key or seen_due is None:
        raise Refused("The form is incomplete: open it again.")
    if what == "move" and (to is None or to <= console.clock()):
        raise Refused("A timer is moved to a time in the future; `fire now` does not wait.")
    chosen = {"was_due": seen_due.isoformat()} | ({"due": to.isoformat()} if what == "move" and to else {})

    async def work() -> Mapping[str, Any]:
        changes = TimerChanges(console.settings.database_url, application="billing-console")
        entry = context.entry(f"timer.{what}", target=key, filter=chosen, reason=reason)
        if what == "cancel":
            is_changed = await changes.cancel(key, seen_due, entry)
        else:
            is_changed = await changes.move(key, seen_due, to if what == "move" else None, entry)
        return {"changed": int(is_changed), "skipped": int(not is_changed)}

    path = await console.actions.perform(
        form.get("key", ""), context.person, f"{what} a timer", work, target=key, filter=chosen, reason=reason,
        peer=context.request.remote,
    )  # fmt: skip
    return Redirect(path)


_WHAT = {"fire": "Fire now", "move": "Move", "cancel": "Cancel the timer"}
"""What a form does with a timer, and the text of its button."""

ROUTES = [
    get("/timers", page),
    get("/timers/change", change_form, Action.CHANGE_TIMER),
    post("/timers/change", change, Action.CHANGE_TIMER),
]
