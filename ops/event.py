"""`billing event` and `billing customer`: everything that is known about one of them, in one place."""

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

from ops.entry import EXIT_INVALID_SETTINGS
from schemas.errors import BillingError
from schemas.settings import InvalidSettings, load_settings
from sinks.postgres import queries
from sinks.postgres.connection import reading

EXIT_UNKNOWN = 1
EXIT_UNAVAILABLE = 3

_PIPE_WIDTH = 200

Found = dict[str, Any]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]

# What a table shows of each list; --json has every column.
_SHOWN = {
    "members": ("user_id", "role", "email"),
    "subscriptions": ("subscription_id", "status", "plan", "price_id", "current_period_end", "cancel_at_period_end"),
    "payments": ("invoice_id", "checkout_session_id", "status", "amount", "currency", "paid_at", "failure_reason"),
    "payment_methods": ("payment_method_id", "brand", "last4", "exp_month", "exp_year", "detached_at"),
    "timers": ("kind", "subject", "due_at", "status"),
    "emails": ("template", "recipient", "status", "queued_at", "sent_at", "last_error"),
    "events": ("event_id", "type", "created", "outcome", "reason"),
    "dead_letters": ("topic", "partition", "offset", "stage", "error_class", "message", "status"),
}


def event(event_id: Annotated[str, typer.Argument(metavar="ID", help="evt_…")], as_json: Json = False) -> None:
    """Show what came of one event: its ledger row, the e-mails it queued, its dead letters.

    Example: billing event evt_1NG8Du2eZvKYlo2CUI79vXWy --json

    Exits 1 if no such event is known, 2 if a setting is missing, 3 if the database does not answer.
    """
    found = _ask("event", lambda connection: _event(connection, event_id), f"no event {event_id} is known")
    _show(found, as_json)


def customer(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="cus_…")],
    account: Annotated[str, typer.Option(help="The connected account it belongs to; none for one's own.")] = "",
    as_json: Json = False,
) -> None:
    """Show everything on one customer: state, payments, timers, e-mails and latest events.

    Example: billing customer cus_NffrFeUfNV2Hib --json

    Exits 1 if no such customer is known, 2 if a setting is missing, 3 if the database does not answer.
    """
    unknown = f"no customer {customer_id} is known" + (f" under {account}" if account else "")
    found = _ask("customer", lambda connection: queries.customer_overview(connection, account, customer_id), unknown)
    _show(found, as_json)


async def _event(connection: AsyncConnection, event_id: str) -> Found | None:
    found = {
        "event": await queries.ledger_row(connection, event_id),
        "emails": await queries.emails_of_event(connection, event_id),
        "dead_letters": await queries.dead_letters_of_event(connection, event_id),
    }
    return found if any(found.values()) else None


def _ask(command: str, question: Callable[[AsyncConnection], Awaitable[Found | None]], unknown: str) -> Found:
    async def answer() -> Found | None:
        async with reading(load_settings().database_url) as connection:
            return await question(connection)

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
        table.add_column(name, overflow="fold")  # an id cut short is of no use
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
    # Names come from whoever bought something: no control sequence of theirs may reach a terminal.
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
