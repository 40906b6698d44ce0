"""The overview: what is wrong, the worst first, then rates, money and processes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import aiohttp

from console import formats
from console.access import Action
from console.reads import SOON_S, PanelFailure, panels
from console.web import Answer, Console, Context, Page, get
from eventlog.unread import NONE
from recovery.audit.results import runs_and_results
from schemas.errors import LogUnavailable
from sinks.postgres.lists import Found, events, overview

_PROBE_S = 2.0
_RATE_S = 5.0
"""Seconds for which the figures of the last hour are not counted again."""
_LATE_S = 300.0
_BEHIND_S = 120.0
HOUR = timedelta(hours=1)

BAD, WARN = "bad", "wait"


def facts_of(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns what needs attention: `level`, `text` and `url`, the worst first. [] if all is well.

    A panel that failed is a fact, too: what is not known is not well.
    """
    facts: list[tuple[int, str, str, str]] = []

    def add(rank: int, level: str, text: str, url: str) -> None:
        facts.append((rank, level, text, url))

    def known(name: str) -> Any:
        value = found.get(name)
        if isinstance(value, PanelFailure):
            add(0, BAD, f"{name.replace('_', ' ')}: {value.error}", "/")
            return None
        return value

    for brake in known("brakes") or ():
        if brake["holds"]:
            text = f"The brake holds {brake['consumer_group']} since {formats.clock(brake['tripped_at'])} UTC"
            add(1, BAD, f"{text}: {brake['message']}", "/lag")
    if (letters := known("letters")) and letters["open"]:
        number = f"{letters['open']:,}{'+' if letters['more'] else ''} dead letter{_s(letters['open'])}"
        text = f"{number} in {letters['groups']} group{_s(letters['groups'])}"
        add(2, BAD, text, "/dead")
    for partition in _behind(known("lag")):
        text = f"Worker {formats.duration(partition['seconds'])} behind on partition {partition['partition']}"
        add(3, BAD, f"{text}, {partition['records']:,} records", "/lag")
    for outbox in known("outboxes") or ():
        where = "/mails" if outbox["outbox"] == "emails" else f"/outboxes/{outbox['outbox']}"
        name = outbox["outbox"].replace("_", " ")
        if outbox["failed"]:
            add(4, BAD, f"{outbox['failed']:,} {name} failed", f"{where}?status=failed")
        if (outbox["late_s"] or 0) > _LATE_S:
            add(
                5,
                WARN,
                f"{name}: the oldest has been due for {formats.duration(outbox['late_s'])}",
                f"{where}?status=queued",
            )
    for outage in known("outages") or ():
        add(4, BAD, f"{outage['address']} does not answer: {outage['reason']}", f"/outboxes/{outage['outbox']}")
    for process in known("processes") or ():
        if process["state"] != "ready":
            add(3, BAD, f"{process['name']} is {process['state']}: {process['reason']}", "/")
    if (timers := known("late_timers")) and timers["timers"]:
        add(6, WARN, f"{timers['timers']:,} timer{_s(timers['timers'])} due and not fired", "/timers")
    if (waiting := known("waiting")) and waiting["events"]:
        text = f"{waiting['events']:,} event{_s(waiting['events'])} waiting for something they refer to"
        add(7, WARN, text, "/events?outcome=waiting&since=all")
    if prices := known("unknown_prices"):
        names = ", ".join(price["price_id"] for price in prices[:3]) + (", …" if len(prices) > 3 else "")
        add(6, WARN, f"{len(prices)} price{_s(len(prices))} in no plan: {names}", "/settings#plans")
    if (shadow := known("shadow")) and shadow["is_on"]:
        text = f"Shadow mode is on since {formats.clock(shadow['began_at'])} UTC: nothing leaves the system"
        add(5, WARN, text, "/mails?status=withheld")
    if runs := known("runs"):
        for name, run in runs.items():
            if run and run["last_error"] and run["ended_at"] is None:
                add(5, WARN, f"The last {name} stopped: {run['last_error']}", "/checks")
        if (audit := runs.get("audit")) and audit["differences"]:
            places = audit["differences"]
            add(3, BAD, f"The books differ from Stripe in {places:,} place{_s(places)}", "/checks")
    if (compared := known("compared")) and compared["count"]:
        rows = f"{compared['count']:,} row{_s(compared['count'])}"
        add(3, BAD, f"{rows} of the state differ from what the log gives", "/checks")
    facts.sort(key=lambda fact: fact[0])
    return [{"level": level, "text": text, "url": url} for _, level, text, url in facts]


def by_minute(rate: list[Found], now: datetime) -> list[dict[str, Any]]:
    """Returns one entry for each of the last 60 minutes: `minute` and the events by outcome."""
    start = now.replace(second=0, microsecond=0) - timedelta(minutes=59)
    minutes: list[dict[str, Any]] = [
        {"minute": start + timedelta(minutes=at), **dict.fromkeys(formats.OUTCOMES, 0)} for at in range(60)
    ]
    for row in rate:
        at = int((row["minute"] - start).total_seconds() // 60)
        if 0 <= at < 60:
            minutes[at][row["outcome"]] = row["events"]
    return minutes


async def processes(console: Console) -> list[dict[str, str]]:
    """Returns `name`, `state` (ready, not ready, away), `reason`, `version` and `since` of each process that is named.

    `since` is when it started, as ISO text; '' if that is not known.
    """
    addresses = console.settings.console_watched
    timeout = aiohttp.ClientTimeout(total=_PROBE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return list(await asyncio.gather(*(_probe(session, name, url) for name, url in addresses.items())))


async def _probe(session: aiohttp.ClientSession, name: str, url: str) -> dict[str, str]:
    found = {"name": name, "state": "ready", "reason": "", "version": "", "since": ""}
    try:
        async with session.get(f"{url}/readyz") as response:
            given = await response.json(content_type=None)
            body = given if isinstance(given, dict) else {}
            found |= {key: str(body.get(key, "")) for key in ("version", "since")}
            if response.status == 200:
                return found
            failing = [f"{check}: {reason}" for check, reason in body.get("checks", {}).items() if reason != "ok"]
            reason = "; ".join(failing) or str(body.get("reason", "")) or f"HTTP {response.status}"
            return found | {"state": "not ready", "reason": reason}
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return found | {"state": "away", "reason": str(error) or f"no answer within {_PROBE_S:.0f} s"}


async def page(context: Context) -> Answer:
    """Shows the overview."""
    console = context.console
    ask, kept, now = console.reads.ask, console.reads.kept, console.clock()
    named: dict[str, Any] = {
        "brakes": ask(overview.brakes),
        # Up to 10,000 messages are compared without their ids.
        "letters": kept("letters", overview.letters, lasts_s=SOON_S, stale_s=SOON_S),
        "waiting": ask(overview.waiting),
        "outboxes": ask(overview.outboxes),
        "outages": ask(overview.outages),
        "late_timers": ask(overview.late_timers),
        "unknown_prices": ask(overview.unknown_prices),
        "runs": ask(runs_and_results),
        "compared": ask(overview.compared),
        "shadow": ask(overview.shadow),
        "lag": console.lag.data(),
        "processes": processes(console),
        # Up to 200,000 and 50,000 rows of the last hour.
        "rate": kept("rate", lambda c: events.rate(c, console.clock() - HOUR), lasts_s=_RATE_S),
        "latency": kept("latency", lambda c: events.latency(c, console.clock() - HOUR), lasts_s=_RATE_S),
    }
    if context.may(Action.SEE_MONEY):
        named |= {
            "money": kept("money", overview.money_strip),
            "blocked": _blocked(console),
        }
    found = await panels(named)
    blocked = found.pop("blocked", None)
    facts = facts_of(found)
    rate = found["rate"]
    data = {
        "facts": facts,
        "minutes": by_minute(rate, now) if not isinstance(rate, PanelFailure) else rate,
        **{name: found.get(name) for name in (
            "latency", "letters", "waiting", "outboxes", "lag", "processes", "runs", "compared", "money"
        )},
        "blocked": blocked,
    }  # fmt: skip
    return Page("overview.j2", "Overview", data, live=True)


async def _blocked(console: Console) -> dict[str, Any]:
    """Returns the MRR that waits behind failures: `rows`, `is_cut`, and `not_known`: why unread events are left out.

    `is_cut`: only the oldest unread events are counted.
    """
    try:
        unread, not_known = await console.lag.unread(), None
    except LogUnavailable as error:
        unread, not_known = NONE, str(error)
    rows = await console.reads.kept("money behind failures", lambda c: overview.money_behind_failures(c, unread.events))
    waits = [row | {"waits_for": overview.waits_for(row)} for row in rows]
    return {"rows": waits, "is_cut": unread.is_cut, "not_known": not_known}


def _behind(lag: Any) -> list[dict[str, Any]]:
    found = [one for one in lag or () if (one["seconds"] or 0) > _BEHIND_S]
    return sorted(found, key=lambda one: -one["seconds"])[:1]


def _s(count: int) -> str:
    return "" if count == 1 else "s"


ROUTES = [get("/", page)]
