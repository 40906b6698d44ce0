"""`billing event` and `billing customer`: print everything that is stored about one event or one customer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from ops.commands.terminal import (
    Column,
    database_or_exit,
    fail,
    run_or_exit,
    say,
    say_cut,
    say_json,
    show_pairs,
    show_rows,
)
from ops.runtime.printable import to_json
from schemas.timer import RETRY
from sinks.postgres import queries
from sinks.postgres.outboxes import OUTBOXES
from sinks.postgres.pool import reading

Found = dict[str, Any]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# The columns of the printed tables; --json contains every column.
_SHOWN = {
    "members": ("user_id", "role", "email"),
    "subscriptions": ("subscription_id", "status", "plan", "price_id", "current_period_end", "cancel_at_period_end"),
    "payments": ("invoice_id", "checkout_session_id", "status", "amount", "currency", "paid_at", "failure_reason"),
    "payment_methods": ("payment_method_id", "brand", "last4", "exp_month", "exp_year", "detached_at"),
    "timers": ("kind", "subject", "due_at", "status"),
    "events": ("event_id", "type", "created", "outcome", "reason"),
    "dead_letters": (
        "stage",
        "error_class",
        "message",
        "attempts",
        "last_failed_at",
        "status",
        "closed_by",
        "replay_of",
    ),
    **{outbox.name: outbox.shown for outbox in OUTBOXES},
    "wrote": ("table", "key", "by"),
}


def event(event_id: Annotated[str, typer.Argument(metavar="ID", help="evt_…")], as_json: Json = False) -> None:
    """Show one event: its verdict, the rows and outbox entries it wrote, and what to do next.

    Example: billing event evt_1NG8Du2eZvKYlo2CUI79vXWy --json

    Exits 1 if the event is not known, 2 if a setting is missing, 3 if the database does not answer.
    """
    settings = database_or_exit("event")

    async def ask() -> Found | None:
        async with reading(settings.database_url) as connection:
            return await queries.event_overview(connection, event_id, settings.events_topic)

    found = run_or_exit("event", ask)
    if found is None:
        fail("event", f"event {event_id} is not known; billing replay {event_id} looks for it on the log and at Stripe")
    _show(found | {"next": _next(event_id, found)}, as_json)


def customer(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="cus_…")],
    account: Annotated[str, typer.Option(help="The customer's connected account. Default: your own account.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many rows of each kind.")] = queries.MOST,
    as_json: Json = False,
) -> None:
    """Show one customer: state, payments, timers, e-mails and latest events.

    Example: billing customer cus_NffrFeUfNV2Hib --json

    Exits 1 if the customer is not known, 2 if a setting is missing, 3 if the database does not answer.
    """
    settings = database_or_exit("customer")

    async def ask() -> Found | None:
        async with reading(settings.database_url) as connection:
            return await queries.customer_overview(connection, account, customer_id, limit=limit)

    found = run_or_exit("customer", ask)
    if found is None:
        fail("customer", f"customer {customer_id} is not known" + (f" in account {account}" if account else ""))
    _show(found, as_json)


def _next(event_id: str, found: Found) -> list[str]:
    """Return the commands to run next: one for each failed, dead or waiting item."""
    row, letters = found["event"], found["dead_letters"]
    lines = [
        f"billing {outbox.command} requeue {queued[outbox.key]}"
        for outbox in OUTBOXES
        for queued in found[outbox.name]
        if queued["status"] == "failed"
    ]
    if any(letter["status"] == "open" for letter in letters):
        lines += [f"billing dead show {event_id}", f"billing dead replay --id {event_id}"]
    elif row is not None and row["outcome"] == "dead":
        lines.append(f"billing dead replay --again --id {event_id}" if letters else f"billing replay {event_id}")
    if row is not None and row["outcome"] == "waiting":
        due = [timer["due_at"] for timer in found["timers"] if timer["kind"] == RETRY and timer["status"] == "pending"]
        when = f" before {due[0]:%F %T} UTC, when it is retried automatically" if due else ""
        lines.append(f"billing replay {event_id}   # to retry it{when}")
    return lines


def _show(found: Found, as_json: bool) -> None:
    if as_json:
        say_json(found)
        return
    totals = found.get("totals", {})
    for name, part in found.items():
        if name == "totals" or not part:
            continue
        if name == "next":
            for line in part:
                say(f"next: {line}")
            continue
        title = name.replace("_", " ")
        if isinstance(part, Mapping):
            show_pairs({key: _cell(value) for key, value in part.items() if key != "payload"}, title=title)
        else:
            columns = [Column(key, whole=key.endswith(("_at", "created", "_end"))) for key in _SHOWN[name]]
            show_rows(columns, [[_cell(row[key]) for key in _SHOWN[name]] for row in part], title=title)
            say_cut(len(part), totals.get(name, 0), as_json=False)
        say()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, dict):
        return to_json(value) if value else ""
    return value
