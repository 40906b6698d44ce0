"""`billing reconcile`: finds events of the last day that never arrived, and appends them to the log."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.commands.terminal import EXIT_INVALID_SETTINGS, settings_and_config
from ops.commands.times import moment_of, span_of
from recovery.reconcile.events import AnotherIsAtIt, Asked
from recovery.reconcile.objects import DriftReport
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.wiring import _now, compare, key_and_base, run
from schemas.errors import BillingError
from schemas.settings import InvalidSettings
from sinks.stripe_api.api import ApiTrouble

EXIT_TROUBLE = 1
EXIT_FOUND = 3


def reconcile(
    since: Annotated[
        str,
        typer.Option(
            help="Start of the window: 24h (ago), 7d (ago), or ISO 8601. "
            "Default: 24h, or since the last complete run if longer."
        ),
    ] = "",
    until: Annotated[
        str, typer.Option(help="End of the window, same format as --since. Default and latest: now minus --grace.")
    ] = "",
    account: Annotated[
        list[str] | None, typer.Option(help="A connected account instead of your own. Repeatable.")
    ] = None,
    all_accounts: Annotated[
        bool, typer.Option("--all-accounts", help="Your own account and all connected accounts.")
    ] = False,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="Only events of this type. Repeatable, up to 20.")
    ] = None,
    undelivered: Annotated[
        bool, typer.Option("--undelivered", help="Only events that Stripe has not delivered to an endpoint.")
    ] = False,
    grace: Annotated[str, typer.Option(help="Ignore events younger than this: they may still be in flight.")] = "5m",
    objects: Annotated[
        bool, typer.Option("--objects", help="Compare subscriptions and invoices instead of events.")
    ] = False,
    repair_: Annotated[
        bool, typer.Option("--repair", help="With --objects: append Stripe's version of differing objects to the log.")
    ] = False,
    settle: Annotated[
        float, typer.Option(min=0, max=3600, help="With --objects: seconds before differing objects are checked again.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report; append nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find events at Stripe that never arrived, and append them to the log. Resumes an interrupted run.

    Example: billing reconcile --since 7d --all-accounts --dry-run

    With --objects it compares subscriptions and invoices at Stripe with the tables, field by field.

    Exits 0 if nothing is missing any more, 1 on an error (it may have done a part of the work: run it again), 2 if a
    setting is invalid, 3 if something is missing or differs and was not repaired.
    """
    settings, config = settings_and_config()
    now = _now()
    try:
        asked = Asked(
            since=moment_of(since, now) if since else None,
            until=moment_of(until, now) if until else None,
            types=tuple(type_ or ()),
            undelivered_only=undelivered,
            dry_run=dry_run,
            grace=span_of(grace),
        )
        key_and_base(settings, config)
    except (ValueError, InvalidSettings) as error:
        typer.echo(f"billing reconcile: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    try:
        if objects:
            drifts = asyncio.run(
                compare(
                    settings, config, asked, account or [], all_accounts=all_accounts, repairs=repair_, settle_s=settle
                )
            )
        else:
            reports = asyncio.run(run(settings, config, asked, account or [], all_accounts=all_accounts))
    except (BillingError, ApiTrouble, AnotherIsAtIt, InvalidSettings) as error:
        typer.echo(f"billing reconcile: {error}", err=True)
        raise typer.Exit(EXIT_TROUBLE) from None
    if objects:
        show_drifts(drifts, as_json=as_json)
        raise typer.Exit(_exit_code([(report.trouble, len(report.drifts) - report.queued) for report in drifts]))
    show_reports(reports, as_json=as_json, is_dry=dry_run)
    raise typer.Exit(_exit_code([(report.trouble, report.missing - report.fed) for report in reports]))


def _exit_code(ended: Iterable[tuple[str | None, int]]) -> int:
    """Return the exit code. `ended` has, for each report, its error and the number of findings not repaired."""
    ended = list(ended)
    if any(trouble for trouble, _ in ended):
        return EXIT_TROUBLE
    return EXIT_FOUND if any(left for _, left in ended) else 0


_PIPE_WIDTH = 200


_SHOWN = 20


def show_reports(reports: list[ReconcileReport], *, as_json: bool, is_dry: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps([report.plain() for report in reports]))
        return
    console = _console()
    for report in reports:
        resumed = f", resumed at {_at(report.resumed_at)}" if report.resumed_at else ""
        done = "nothing appended (dry run)" if is_dry else f"{report.fed} appended"
        _say(
            console,
            f"{_of(report.account)}, {_at(report.window_from)} to {_at(report.window_until)}{resumed}: "
            f"{report.listed} listed, {report.on_the_way} in flight, {report.missing} missing, {done}",
        )
        if report.too_large:
            _say(console, f"{report.too_large} of them are too large for the log")
        if report.trouble:
            _say(console, f"stopped: {report.trouble}")
        if report.missing:
            console.print(_counts("by type", dict(report.by_type.most_common())))
            console.print(_counts("by age", report.by_age))


def show_drifts(reports: list[DriftReport], *, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps([_plain(report) for report in reports]))
        return
    console = _console()
    for report in reports:
        compared = ", ".join(f"{count} {kind}s" for kind, count in report.compared.items()) or "nothing"
        _say(
            console, f"{_of(report.account)}: {compared} compared, {len(report.drifts)} differ, {report.queued} queued"
        )
        if report.is_cut:
            _say(console, "the comparison stopped early: repair these, then run it again")
        if report.unreadable:
            _say(console, f"{report.unreadable} could not be read")
        if report.trouble:
            _say(console, f"stopped: {report.trouble}")
        if report.drifts:
            console.print(_counts("by field", report.by_field))
            console.print(_drift_table(report))


def _plain(report: DriftReport) -> dict[str, object]:
    return {
        "account": report.account,
        "compared": dict(report.compared),
        "unreadable": report.unreadable,
        "queued": report.queued,
        "is_cut": report.is_cut,
        "trouble": report.trouble,
        "by_field": report.by_field,
        "drifts": [
            {
                "kind": drift.kind,
                "id": drift.id,
                "missing": drift.missing,
                "repairable": drift.repairable,
                "fields": {name: {"stripe": one, "table": other} for name, (one, other) in drift.fields.items()},
            }
            for drift in report.drifts
        ],
    }


def _drift_table(report: DriftReport) -> Table:
    table = Table("object", "field", "Stripe", "table", title=f"first {_SHOWN}", title_justify="left")
    for drift in report.drifts[:_SHOWN]:
        for name, (one, other) in drift.fields.items():
            table.add_row(drift.id, name, _printable(one), "no row" if drift.missing else _printable(other))
    return table


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, count in counts.items():
        table.add_row(_printable(name), str(count))
    return table


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def _say(console: Console, line: str) -> None:
    console.print(_printable(line), soft_wrap=True)


def _printable(value: object) -> Text:
    return Text("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(value)))


def _of(account: str) -> str:
    return account or "own account"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
