"""`billing mrr`: prints the figures that `billing analytics` keeps."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analytics.queries import Scope, figures
from ops.commands.terminal import EXIT_INVALID_SETTINGS
from schemas.errors import BillingError
from schemas.settings import InvalidSettings, Mode, load_settings
from sinks.postgres.pool import reading

EXIT_UNAVAILABLE = 3
_PIPE_WIDTH = 200


class By(StrEnum):
    PLAN = "plan"
    CURRENCY = "currency"
    DAY = "day"


def mrr(
    by: Annotated[By, typer.Option("--by", help="Break down MRR and its movements by this.")] = By.CURRENCY,
    mode: Annotated[Mode | None, typer.Option("--mode", help="Only live mode or only test mode.")] = None,
    account: Annotated[str, typer.Option("--account", help="Connected account. Default: your own account.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show MRR and its movements, revenue at risk, recovery of failed payments, and payments.

    Example: billing mrr --by plan --json

    Amounts are in minor units, times in UTC. Exits 2 if a setting is missing, 3 if the database does not answer.
    """
    scope = Scope(account, mode.livemode if mode is not None else None)

    async def answer() -> dict[str, list[dict[str, Any]]]:
        async with reading(load_settings().database_url) as connection:
            return await figures(connection, scope, by)

    try:
        found = asyncio.run(answer())
    except InvalidSettings as error:
        typer.echo(f"billing mrr: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except BillingError as error:
        typer.echo(f"billing mrr: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
    if as_json:
        typer.echo(orjson.dumps(found))
    else:
        _show(found)


def _show(found: dict[str, list[dict[str, Any]]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    if not any(found.values()):
        console.print("No figures yet. Is `billing analytics` running?")
    for name, rows in found.items():
        if not rows:
            continue
        title = "MRR" if name == "mrr" else name.replace("_", " ")
        table = Table(title=title, title_justify="left")
        for column in rows[0]:
            is_text = column in ("livemode", "currency", "plan", "day", "step")
            table.add_column("mode" if column == "livemode" else column, justify="left" if is_text else "right")
        for row in rows:
            table.add_row(*(Text(_cell(column, value)) for column, value in row.items()))
        console.print(table)


def _cell(column: str, value: object) -> str:
    if column == "livemode":
        return "live" if value else "test"
    shown = "" if value is None else str(value)
    # The name of an unknown plan is an id from an event, so it must not reach the terminal unchecked.
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in shown)
