"""`billing event` and `billing customer`: print everything that is stored about one event or one customer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncConnection

from ops.commands.terminal import EXIT_INVALID_SETTINGS
from schemas.errors import BillingError
from schemas.settings import InvalidSettings, Settings, load_settings
from schemas.timer import RETRY
from sinks.postgres import queries, tables
from sinks.postgres.outboxes import OUTBOXES
from sinks.postgres.pool import reading

EXIT_UNKNOWN = 1
EXIT_UNAVAILABLE = 3

_PIPE_WIDTH = 200

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
    """Show one event: its position on the log, its verdict, the rows and outbox entries it wrote, and what to do next.

    Example: billing event evt_1NG8Du2eZvKYlo2CUI79vXWy --json

    Exits 1 if the event is not known, 2 if a setting is missing, 3 if the database does not answer.
    """
    unknown = f"event {event_id} is not known; billing replay {event_id} looks for it on the log and at Stripe"
    found = _ask("event", lambda connection, settings: _event(connection, event_id, settings.events_topic), unknown)
    _show(found, as_json)


def customer(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="cus_…")],
    account: Annotated[str, typer.Option(help="The customer's connected account. Default: your own account.")] = "",
    as_json: Json = False,
) -> None:
    """Show one customer: state, payments, timers, e-mails and latest events.

    Example: billing customer cus_NffrFeUfNV2Hib --json

    Exits 1 if the customer is not known, 2 if a setting is missing, 3 if the database does not answer.
    """
    unknown = f"customer {customer_id} is not known" + (f" in account {account}" if account else "")
    found = _ask("customer", lambda connection, _: queries.customer_overview(connection, account, customer_id), unknown)
    _show(found, as_json)


async def _event(connection: AsyncConnection, event_id: str, events_topic: str) -> Found | None:
    row = await queries.ledger_row(connection, event_id)
    if row is not None and row["partition"] is not None:
        row["on_the_log"] = f"{events_topic}/{row['partition']}/{row['offset']}"
    found: Found = {
        "event": row,
        "wrote": await queries.effects_of_event(connection, row) if row is not None else [],
        "timers": await queries.rows_by_event(connection, tables.timers, event_id),
        **await queries.outboxes_of_event(connection, event_id),
        "dead_letters": await queries.dead_letters_of_event(connection, event_id),
    }
    return found | {"next": _next(event_id, found)} if any(found.values()) else None


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


def _ask(command: str, question: Callable[[AsyncConnection, Settings], Awaitable[Found | None]], unknown: str) -> Found:
    async def answer() -> Found | None:
        settings = load_settings()
        async with reading(settings.database_url) as connection:
            return await question(connection, settings)

    try:
        found = asyncio.run(answer())
    except InvalidSettings as error:
        typer.echo(f"billing {command}: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except BillingError as error:
        typer.echo(f"billing {command}: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
    if found is None:
        typer.echo(f"billing {command}: {_printable(unknown)}", err=True)
        raise typer.Exit(EXIT_UNKNOWN)
    return found


def _show(found: Found, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps(found))
        return
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for name, part in found.items():
        if isinstance(part, Mapping):
            console.print(_pairs(name, part))
        elif name == "next":
            for line in part:
                console.print(Text(f"next: {_printable(line)}"))
        elif part:
            console.print(_list(name, part))


def _pairs(title: str, row: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in row.items():
        if value not in (None, "", {}) and name != "payload":
            table.add_row(name, _cell(value))
    return table


def _list(title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    shown = _SHOWN[title]
    table = Table(title=title.replace("_", " "), title_justify="left")
    for name in shown:
        table.add_column(name, overflow="fold")  # ids are copied into other commands, so they must be complete
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in shown))
    return table


def _cell(value: object) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, datetime):
        return Text(value.isoformat(sep=" ", timespec="seconds"))
    return Text(_printable(orjson.dumps(value).decode() if isinstance(value, dict) else str(value)))


def _printable(text: str) -> str:
    # Customers choose their names: a control sequence in one must not reach the terminal.
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
