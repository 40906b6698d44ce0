"""Timers: a calendar of the next 14 days by kind, the list, and a form that fires one before its time."""

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
from eventlog.append import EventAppender
from eventlog.timer_entry import timer_entry
from schemas.state import Timer
from sinks.postgres.lists import Found, outboxes
from sinks.postgres.timer_changes import FIRED_EARLY, TimerChanges, why_not

DAYS = 14
MOST_MAILING = 500


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


def mails_by_day(mailing: list[Found]) -> list[dict[str, Any]]:
    """Returns one entry per day on which customers may get mail: `day`, `mails`, and the `customers`, each once."""
    days: dict[Any, list[Found]] = {}
    for timer in mailing:
        days.setdefault(timer["day"], []).append(timer)
    return [
        {
            "day": day,
            "mails": len(timers),
            "customers": list({(one["account"], one["customer_id"]): one for one in timers}.values()),
        }
        for day, timers in days.items()
    ]


async def page(context: Context) -> Answer:
    """Shows what is due and when."""
    query, ask = context.query, context.console.reads.ask
    after, kind = params.place(query, "after"), params.text(query, "kind")
    found = await panels(
        {
            "calendar": ask(lambda c: outboxes.calendar(c, days=DAYS)),
            "mailing": ask(lambda c: outboxes.mailing(c, days=DAYS, most=MOST_MAILING)),
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
        "mails": mails_by_day(found["mailing"]) if isinstance(found["mailing"], list) else found["mailing"],
        "is_cut": isinstance(found["mailing"], list) and len(found["mailing"]) == MOST_MAILING,
        "fired_early": sorted(FIRED_EARLY),
        "next": params.place_text(*more) if more else None,
    }
    return Page("timers.j2", "Timers", data)


async def fire_form(context: Context) -> Answer:
    """Shows one pending timer that can be fired before its time."""
    key = params.text(context.query, "timer")
    found = await context.console.reads.ask(lambda c: outboxes.timer(c, key))
    if found is None or found["status"] != "pending":
        raise NotFound(f"No timer {key} is pending.")
    if reason := why_not(found["kind"]):
        raise Refused(reason)
    data = {"timer": found, "seen_due": found["due_at"].isoformat(), "key": secrets.token_urlsafe(16)}
    return Page("timer_form.j2", "Fire a timer", data)


async def fire(context: Context) -> Answer:
    """Fires a timer that is as the form showed it."""
    form = {name: str(value) for name, value in (await context.form()).items()}
    key, seen_due = params.text(form, "timer"), params.time(form, "seen_due")
    reason = params.text(form, "reason") or None
    if not key or seen_due is None:
        raise Refused("The form is incomplete: open it again.")
    console, chosen = context.console, {"was_due": seen_due.isoformat()}

    async def append(timer: Timer) -> None:
        settings = console.settings
        event_log = EventAppender(settings.kafka, settings.events_topic, client_id="billing-console")
        try:
            await event_log.append([timer_entry(timer, console.clock())])
        finally:
            event_log.close()

    changes = TimerChanges(console.settings.database_url, application="billing-console")

    async def work() -> Mapping[str, Any]:
        entry = context.entry("timer.fire", target=key, filter=chosen, reason=reason)
        is_fired = await changes.fire(key, seen_due, entry, append)
        return {"changed": int(is_fired), "skipped": int(not is_fired)}

    path = await console.actions.perform(
        form.get("key", ""), context.person, "fire a timer", work, target=key, filter=chosen, reason=reason,
        peer=context.peer, begun=lambda: changes.begun,
    )  # fmt: skip
    return Redirect(path)


ROUTES = [
    get("/timers", page),
    get("/timers/fire", fire_form, Action.FIRE_TIMER),
    post("/timers/fire", fire, Action.FIRE_TIMER),
]
