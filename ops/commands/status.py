"""`billing status`: what needs attention, the worst first, and the state of the schedules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from eventlog.lag import lag_of
from ops.commands.amounts import amount_text
from ops.commands.terminal import Column, run_or_exit, say, say_json, settings_or_exit, show_rows
from ops.commands.times import minute_text, second_text
from ops.runtime.exit_codes import ExitCode
from recovery.audit.results import runs_and_results
from schemas.errors import BillingError, ServiceUnavailable
from schemas.settings import Settings
from sinks.postgres.lists import overview
from sinks.postgres.lists.attention import Concern, Unknown, concerns
from sinks.postgres.pool import reading

_PANELS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "brakes": overview.brakes,
    "letters": overview.letters,
    "waiting": overview.waiting,
    "outboxes": overview.outboxes,
    "outages": overview.outages,
    "late_timers": overview.late_timers,
    "unknown_prices": overview.unknown_prices,
    "runs": runs_and_results,
    "scheduled": overview.scheduled,
    "shadow": overview.shadow,
    "money_behind_failures": overview.money_behind_failures,
}


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what needs attention, the worst first, then the queues and the schedules.

    Example: billing status

    Exits 0 if all is well, 1 if something needs attention or is not known, 2 if a setting is missing, 3 if Postgres
    does not answer.
    """
    settings = settings_or_exit("status")
    panels = run_or_exit("status", lambda: _panels(settings))
    now = datetime.now(UTC)
    found = concerns(panels, now)
    schedules = schedules_of(settings, panels["runs"] | panels["scheduled"])
    if as_json:
        lag = panels["lag"]
        shown = panels | {"lag": asdict(lag) if isinstance(lag, Unknown) else lag}
        say_json({"concerns": [asdict(one) for one in found], "schedules": schedules, **shown})
    else:
        _say(found, panels, schedules)
    if found:
        raise typer.Exit(ExitCode.NO)


async def _panels(settings: Settings) -> dict[str, Any]:
    lag = asyncio.create_task(_lag(settings))
    found: dict[str, Any] = {}
    try:
        async with reading(settings.database_url) as connection:
            for name, ask in _PANELS.items():
                found[name] = await ask(connection)
    finally:
        found["lag"] = await lag
    return found


async def _lag(settings: Settings) -> dict[int, int] | Unknown:
    """Return the records behind by partition. Kafka may be away while everything else is shown."""
    try:
        lag = await asyncio.to_thread(lag_of, settings.kafka, f"{settings.topic_prefix}.worker", settings.events_topic)
    except (BillingError, ServiceUnavailable) as error:
        return Unknown(str(error))
    return Unknown("no broker reports the worker's position") if lag is None else lag


def schedules_of(settings: Settings, runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each schedule `name`, `every_s` (0: off) and `last`: when it ended, or why it stopped."""
    return [
        {"name": "reconcile", "every_s": settings.reconcile_pause_s, "last": _last(runs["reconciliation"])},
        {"name": "audit", "every_s": settings.audit_pause_s, "last": _last(runs["audit"])},
        {"name": "retry of failed events", "every_s": settings.retry_failed_pause_s, "last": _logged(runs["retry"])},
        {"name": "prune", "every_s": settings.prune_every_s, "last": _logged(runs["prune"])},
    ]


def _last(run: dict[str, Any] | None) -> str:
    if run is None:
        return "never ran"
    if run["ended_at"] is None:
        return f"stopped: {run['last_error']}" if run["last_error"] else f"runs since {second_text(run['started_at'])}"
    return f"ended {second_text(run['ended_at'])}"


def _logged(entry: dict[str, Any] | None) -> str:
    """Return how a run ended that has only its entry in the audit log."""
    if entry is None:
        return "nothing in 60 days"
    text = f"{entry['outcome']} {second_text(entry['at'])}"
    if entry["reason"]:
        return f"{text}: {entry['reason']}"
    return text if entry["count"] is None else f"{text}, {entry['count']} rows"


def _say(found: list[Concern], panels: dict[str, Any], schedules: list[dict[str, Any]]) -> None:
    shadow = panels["shadow"]
    if shadow is not None and shadow["is_on"]:
        say(f"Shadow mode is on since {minute_text(shadow['began_at'])}: nothing leaves the system.")
        say("    billing shadow report")
    if not found:
        say("All is well.")
    for one in found:
        say(one.text)
        say(f"    {one.command}")
    for one in panels["money_behind_failures"]:
        mode = "live" if one["livemode"] else "test"
        people = f"{one['customers']} customer{'' if one['customers'] == 1 else 's'}"
        mrr = amount_text(one["mrr"], one["currency"])
        say(f"{mrr} of MRR ({mode} mode) waits behind {overview.waits_for(one)} of {people}")
    say()
    show_rows(
        [Column("outbox"), Column("open", right=True), Column("failed", right=True), Column("late", right=True)],
        [
            (
                one["outbox"],
                one["open"],
                one["failed"],
                f"{int((one['late_s'] or 0) // 60)} min" if one["late_s"] else "",
            )
            for one in panels["outboxes"]
        ],
    )
    say()
    show_rows(
        [Column("schedule", whole=True), Column("every", right=True), Column("last", whole=True)],
        [(one["name"], _every(one["every_s"]), one["last"]) for one in schedules],
    )
    lag = panels["lag"]
    if not isinstance(lag, Unknown):
        say()
        say(f"{sum(lag.values())} records on the log that the worker has not committed")


def _every(seconds: float) -> str:
    if not seconds:
        return "off"
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"
