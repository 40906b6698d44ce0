"""`billing mrr`: prints the figures that `billing analytics` keeps."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from analytics.queries import Scope, figures
from ops.commands.amounts import amount_text, duration_text
from ops.commands.terminal import (
    Column,
    database_or_exit,
    fail,
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

_KINDS = ("new", "expansion", "contraction", "churn", "reactivation", "pause", "resume")
AMOUNTS: dict[str, tuple[str, ...]] = {
    "mrr": ("mrr", "list_mrr", *_KINDS, "paused_churn", "moved_in", "moved_out"),
    "rates": ("mrr", "arr", "arpu"),
    "cohorts": ("first_mrr", "mrr"),
    "usage": ("amount",),
    "risk": ("at_risk", "recovered", "lost"),
    "recovery": ("recovered_amount", "lost_amount"),
    "payments": ("amount", "unpaid_amount", "refunded"),
    "movements": ("amount", "list_amount", "paused_lost"),
    "failed-invoices": ("amount",),
    "customers-at-risk": ("mrr",),
}
"""The columns of each table that are amounts in the row's currency."""


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
    COHORTS = "cohorts"
    USAGE = "usage"
    RISK = "risk"
    RECOVERY = "recovery"
    RECOVERY_BY_STEP = "recovery_by_step"
    PAYMENTS = "payments"
    MOVEMENTS = "movements"
    FAILED_INVOICES = "failed-invoices"
    CUSTOMERS_AT_RISK = "customers-at-risk"


LISTS = (MrrPart.MOVEMENTS, MrrPart.FAILED_INVOICES, MrrPart.CUSTOMERS_AT_RISK)
MOST_LISTED = 10_000
"""Rows of a list. If there are more, the command says so."""

_Day = Annotated[
    datetime | None,
    typer.Option("--since", formats=["%Y-%m-%d"], help="First day (UTC) that counts; with --by month its month."),
]


def mrr(
    by: Annotated[
        By | None, typer.Option("--by", help="Break down MRR and its movements by this. Default: currency.")
    ] = None,
    mode: Annotated[Mode | None, typer.Option("--mode", help="Only live mode or only test mode.")] = None,
    account: Annotated[str, typer.Option("--account", help="Connected account. Default: your own account.")] = "",
    since: _Day = None,
    until: Annotated[
        datetime | None,
        typer.Option("--until", formats=["%Y-%m-%d"], help="Last day (UTC) that counts: MRR at its end."),
    ] = None,
    only: Annotated[
        MrrPart | None, typer.Option("--only", help="One table of figures, or the list behind one.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="With --only: print CSV.")] = False,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="With --only: write a Parquet file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show MRR and its movements, ARR, cohorts, usage, revenue at risk, recovery of failed payments, and payments.

    Example: billing mrr --by month --since 2026-01-01 --until 2026-06-30

    MRR is after recurring discounts, list MRR before. Times are in UTC. JSON, CSV and Parquet have amounts in minor
    units of the row's currency (cents), and shares as text or decimals.

    Exits 2 if a setting or an option is invalid, 3 if the database does not answer.
    """
    if (as_csv or parquet is not None) and only is None:
        refuse("mrr", f"{'--csv' if as_csv else '--parquet'} needs --only: {', '.join(MrrPart)}")
    if (as_csv, as_json, parquet is not None).count(True) > 1:
        refuse("mrr", "use one of --csv, --json and --parquet")
    first, last = (day.date() if day is not None else None for day in (since, until))
    _refuse_what_does_not_apply(only, by, mode, first, last)
    settings = database_or_exit("mrr")
    scope = Scope(account, mode.livemode if mode is not None else None, first, last)

    async def answer() -> dict[str, list[dict[str, Any]]]:
        async with reading(settings.database_url) as connection:
            if only in LISTS:
                return {str(only): await _listed(connection, only, scope)}
            found = await figures(connection, scope, by or By.CURRENCY)
            return found if only is None else {str(only): found[only]}

    found = run_or_exit("mrr", answer)
    if only in LISTS and len(found[only]) > MOST_LISTED:
        note(f"billing mrr: only the first {MOST_LISTED} rows: --account, --since or --until selects")
        del found[only][MOST_LISTED:]
    if parquet is not None:
        _write(parquet, found[str(only)])
    elif as_csv:
        say_text(csv_text(found[str(only)]))
    elif as_json:
        say_json(found)
    else:
        show_figures(found)


async def _listed(connection: Any, only: MrrPart | None, scope: Scope) -> list[dict[str, Any]]:
    """Returns one row more than is shown, so that a list that is cut is noticed."""
    days: dict[str, Any] = {"since": scope.since, "until": scope.until, "most": MOST_LISTED + 1}
    if only is MrrPart.FAILED_INVOICES:
        return await money.failed_invoices(connection, account=scope.account, **days)
    read = money.customers_at_risk if only is MrrPart.CUSTOMERS_AT_RISK else money.moved
    return await read(connection, account=scope.account, livemode=scope.livemode, **days)


def _refuse_what_does_not_apply(
    only: MrrPart | None, by: By | None, mode: Mode | None, since: date | None, until: date | None
) -> None:
    """Exits 2 for an option that would change nothing in what is printed."""
    if by is not None and only not in (None, MrrPart.MRR):
        refuse("mrr", f"--by does not apply to --only {only}")
    if since is not None and only is MrrPart.RATES:
        refuse("mrr", "--since does not apply to --only rates: they are those of one day")
    for name, day in (("--since", since), ("--until", until)):
        if day is not None and only is MrrPart.USAGE:
            refuse("mrr", f"{name} does not apply to --only usage: it is that of the newest invoices")
    if mode is not None and only is MrrPart.FAILED_INVOICES:
        refuse("mrr", "--mode does not apply to --only failed-invoices: stored invoices are all of the system's mode")
    if since is not None and until is not None and until < since:
        refuse("mrr", f"--until {until} is before --since {since}")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        from ops.commands import figures_parquet  # imported only with --parquet: pyarrow is optional
    except ImportError:
        refuse("mrr", "--parquet needs pyarrow: pip install 'billing-stream[parquet]'")
    if not rows:
        fail("mrr", "no rows, so no file is written")
    try:
        figures_parquet.write(path, list(rows[0]), rows)
    except OSError as error:
        refuse("mrr", f"--parquet: {path}: {error.strerror or error}")
    note(f"{len(rows)} rows written to {path}")


def show_figures(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the tables that have rows."""
    if not any(found.values()):
        say("No figures yet. Is `billing analytics` running?")
    for name, rows in found.items():
        if rows:
            cells = [_cells(name, row) for row in rows]
            columns = [
                Column(
                    {"livemode": "mode", "median_seconds": "median time"}.get(column, column.replace("_", " ")),
                    right=any(not isinstance(row[column], str | bool | date) for row in rows)
                    or column in AMOUNTS.get(name, ()),
                    whole=True,
                )
                for column in rows[0]
            ]
            title = "MRR" if name == "mrr" else name.replace("_", " ").replace("-", " ")
            show_rows(columns, [list(row.values()) for row in cells], title=title)
            say()


def _cells(table: str, row: dict[str, Any]) -> dict[str, object]:
    """Returns the row as people read it: amounts with their currency, durations with their unit."""
    shown: dict[str, object] = dict(row)
    for column in AMOUNTS.get(table, ()):
        if (amount := row.get(column)) is not None:
            shown[column] = amount_text(amount, row["currency"])
    if row.get("mrr_currency") is not None:
        shown["mrr"] = amount_text(row["mrr"], row["mrr_currency"])
    if row.get("median_seconds") is not None:
        shown["median_seconds"] = duration_text(row["median_seconds"])
    if "livemode" in row:
        shown["livemode"] = "live" if row["livemode"] else "test"
    return shown
