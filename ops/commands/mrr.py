"""`billing mrr`: prints the figures that `billing analytics` keeps."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from analytics.queries import Scope, figures
from ops.commands.terminal import (
    Column,
    database_or_exit,
    note,
    refuse,
    run_or_exit,
    say,
    say_json,
    say_text,
    show_rows,
)
from schemas.csv_text import csv_text
from schemas.settings import Mode
from sinks.postgres.lists import money
from sinks.postgres.pool import reading

_TEXTS = ("livemode", "currency", "plan", "customer", "month", "day", "step")
_TEXT_ENDINGS = ("_id", "_at", "_email", "_name", "_mail")


class By(StrEnum):
    PLAN = "plan"
    CURRENCY = "currency"
    CUSTOMER = "customer"
    MONTH = "month"
    DAY = "day"


class MrrPart(StrEnum):
    """What can be printed alone: a table of figures, or the list behind a figure."""

    MRR = "mrr"
    RATES = "rates"
    RISK = "risk"
    RECOVERY = "recovery"
    RECOVERY_BY_STEP = "recovery_by_step"
    PAYMENTS = "payments"
    FAILED_INVOICES = "failed-invoices"
    CUSTOMERS_AT_RISK = "customers-at-risk"


MOST_LISTED = 10_000
"""Rows of a list. If there are more, the command says so."""


def mrr(
    by: Annotated[
        By | None, typer.Option("--by", help="Break down MRR and its movements by this. Default: currency.")
    ] = None,
    mode: Annotated[Mode | None, typer.Option("--mode", help="Only live mode or only test mode.")] = None,
    account: Annotated[str, typer.Option("--account", help="Connected account. Default: your own account.")] = "",
    since: Annotated[
        datetime | None,
        typer.Option("--since", formats=["%Y-%m-%d"], help="First day (UTC) that counts; with --by month its month."),
    ] = None,
    only: Annotated[
        MrrPart | None, typer.Option("--only", help="One table of figures, or the list of customers behind one.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="With --only: print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show MRR and its movements, ARR, revenue at risk, recovery of failed payments, and payments.

    Example: billing mrr --by plan --since 2026-01-01 --json

    Amounts are in minor units, times in UTC. Exits 2 if a setting is missing, 3 if the database does not answer.
    """
    if as_csv and only is None:
        refuse("mrr", f"--csv needs --only: {', '.join(MrrPart)}")
    _refuse_what_does_not_apply(only, by, mode, since)
    settings = database_or_exit("mrr")
    scope = Scope(account, mode.livemode if mode is not None else None, since.date() if since is not None else None)

    async def answer() -> dict[str, list[dict[str, Any]]]:
        async with reading(settings.database_url) as connection:
            if only is MrrPart.FAILED_INVOICES:
                rows = await money.failed_invoices(connection, account=account, since=scope.since, most=MOST_LISTED + 1)
                return {str(only): rows}
            if only is MrrPart.CUSTOMERS_AT_RISK:
                rows = await money.customers_at_risk(
                    connection, account=account, livemode=scope.livemode, since=scope.since, most=MOST_LISTED + 1
                )
                return {str(only): rows}
            found = await figures(connection, scope, by or By.CURRENCY)
            return found if only is None else {str(only): found[only]}

    found = run_or_exit("mrr", answer)
    if only in (MrrPart.FAILED_INVOICES, MrrPart.CUSTOMERS_AT_RISK) and len(found[only]) > MOST_LISTED:
        note(f"billing mrr: only the first {MOST_LISTED} rows: --account or --since selects")
        del found[only][MOST_LISTED:]
    if as_csv:
        say_text(csv_text(found[str(only)]))
    elif as_json:
        say_json(found)
    else:
        _show(found)


def _refuse_what_does_not_apply(only: MrrPart | None, by: By | None, mode: Mode | None, since: datetime | None) -> None:
    """Exits 2 for an option that would change nothing in what is printed."""
    if by is not None and only not in (None, MrrPart.MRR):
        refuse("mrr", f"--by does not apply to --only {only}")
    if since is not None and only is MrrPart.RATES:
        refuse("mrr", "--since does not apply to --only rates: they are today's")
    if mode is not None and only is MrrPart.FAILED_INVOICES:
        refuse("mrr", "--mode does not apply to --only failed-invoices: stored invoices are all of the system's mode")


def _show(found: dict[str, list[dict[str, Any]]]) -> None:
    if not any(found.values()):
        say("No figures yet. Is `billing analytics` running?")
    for name, rows in found.items():
        if rows:
            columns = [
                Column(
                    "mode" if name == "livemode" else name,
                    right=name not in _TEXTS and not name.endswith(_TEXT_ENDINGS),
                    whole=True,
                )
                for name in rows[0]
            ]
            cells = [[_cell(name, value) for name, value in row.items()] for row in rows]
            show_rows(columns, cells, title="MRR" if name == "mrr" else name.replace("_", " "))
            say()


def _cell(column: str, value: object) -> object:
    if column == "livemode":
        return "live" if value else "test"
    return value
