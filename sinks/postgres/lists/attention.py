"""What needs attention now, the worst first, each with the command that shows more. Pure: from the panels' rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

_LATE_S = 300.0
_BEHIND = 10_000
"""Records behind which a worker is behind. The console measures seconds."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A panel whose service does not answer. What is not known is not well."""

    error: str


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing that needs attention. `rank` 0 is the worst."""

    rank: int
    text: str
    command: str


def concerns(panels: Mapping[str, Any], now: datetime) -> list[Concern]:
    """Returns what needs attention, the worst first; [] if all is well.

    `panels` are the results of sinks/postgres/lists/overview.py by name, and `lag`: records behind by partition.
    """
    found: list[Concern] = []
    for name, panel in panels.items():
        if isinstance(panel, Unknown):
            found.append(Concern(0, f"{name.replace('_', ' ')}: not known: {panel.error}", "billing status"))
    known = {name: panel for name, panel in panels.items() if not isinstance(panel, Unknown)}
    for brake in known.get("brakes") or ():
        if brake["holds"]:
            text = f"the brake holds {brake['consumer_group']} since {_time(brake['tripped_at'])}: {brake['message']}"
            found.append(Concern(1, text, "billing brake ls"))
    letters = known.get("letters")
    if letters and letters["open"]:
        more = "more than " if letters["more"] else ""
        text = f"{more}{_count(letters['open'], 'dead letter')} in {_count(letters['groups'], 'group')}"
        found.append(Concern(2, f"{text}, the first since {_time(letters['since'])}", "billing dead ls --groups"))
    behind = {at: records for at, records in (known.get("lag") or {}).items() if records >= _BEHIND}
    if behind:
        worst = max(behind, key=lambda at: behind[at])
        found.append(Concern(3, f"the worker is {behind[worst]} records behind on p{worst}", "billing brake ls"))
    found += _of_outboxes(known)
    timers = known.get("late_timers")
    if timers and timers["timers"]:
        text = f"{_count(timers['timers'], 'timer')} due since {_time(timers['since'])} and not fired"
        found.append(Concern(6, f"{text}: is the scheduler running?", "billing scheduler"))
    found += _of_runs(known)
    if prices := known.get("unknown_prices"):
        names = ", ".join(price["price_id"] for price in prices[:3]) + (", …" if len(prices) > 3 else "")
        text = f"{_count(len(prices), 'price')} in no plan: {names}"
        found.append(Concern(6, text, "billing plans check"))
    waiting = known.get("waiting")
    if waiting and waiting["events"] and waiting["since"] is not None and now - waiting["since"] > timedelta(hours=1):
        text = f"{_count(waiting['events'], 'event')} waiting, the oldest since {_time(waiting['since'])}"
        found.append(Concern(7, text, "billing replay --since 3d --dry-run"))
    return sorted(found, key=lambda concern: concern.rank)


def _of_outboxes(known: Mapping[str, Any]) -> list[Concern]:
    found = []
    for outage in known.get("outages") or ():
        text = f"{outage['address']} does not answer since {_time(outage['since'])}: {outage['reason']}"
        found.append(Concern(4, text, "billing mail ls"))
    for outbox in known.get("outboxes") or ():
        name, ls = outbox["outbox"].replace("_", " "), f"billing {outbox['command']} ls"
        if outbox["failed"]:
            found.append(Concern(4, f"{outbox['failed']} {name} failed", ls))
        if (outbox["late_s"] or 0) > _LATE_S:
            late = int(outbox["late_s"] // 60)
            found.append(Concern(5, f"{name}: the oldest of {outbox['open']} is {late} min late", f"{ls} --all"))
    return found


def _of_runs(known: Mapping[str, Any]) -> list[Concern]:
    found = []
    for name, run in (known.get("runs") or {}).items():
        if run is None:
            continue
        command = "billing reconcile" if name == "reconciliation" else "billing audit"
        if run["last_error"] and run["ended_at"] is None:
            found.append(Concern(5, f"the last {name} stopped: {run['last_error']}", command))
        if run.get("differences"):
            text = f"the books differ from Stripe in {_count(run['differences'], 'place')}"
            found.append(Concern(3, text, "billing audit"))
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at is not None else "an unknown time"
