"""`billing audit`: compares the tables with Stripe over a window, and says whether the books agree."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from ops.commands.terminal import (
    Column,
    exits,
    refuse,
    run_or_exit,
    say,
    say_cut,
    say_json,
    settings_and_config,
    show_rows,
)
from ops.commands.times import moment_of, second_text, span_of
from ops.runtime.exit_codes import ExitCode
from recovery.audit.audit import AnotherAudit, AuditAsked, AuditReport
from recovery.audit.wiring import run
from recovery.stripe_lists import key_and_base
from schemas.timing import utc_now
from sinks.stripe_api.api import ApiTrouble


def audit(
    since: Annotated[str, typer.Option(help="Start of the window: 24h (ago), 7d (ago), or ISO 8601.")] = "7d",
    until: Annotated[
        str, typer.Option(help="End of the window, same format as --since. Default and latest: now minus --grace.")
    ] = "",
    account: Annotated[
        list[str] | None, typer.Option(help="A connected account instead of your own. Repeatable.")
    ] = None,
    all_accounts: Annotated[
        bool, typer.Option("--all-accounts", help="Your own account and all connected accounts.")
    ] = False,
    grace: Annotated[str, typer.Option(help="Leave out what is younger than this: it may still be in flight.")] = "5m",
    settle: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds before what differs is read again from both sides.")
    ] = 30.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again instead of resuming an interrupted run.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show at most this many differences.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare events, subscriptions, payments, refunds and daily totals with Stripe. Resumes an interrupted run.

    Example: billing audit --since 30d --all-accounts

    Each difference has its cause and the command that repairs it. It changes nothing.

    Exits 0 if the books agree, 1 if something differs, 2 if a setting is invalid, 3 if Stripe, Kafka or Postgres does
    not answer, or Stripe refuses for a time (HTTP 409, 429, 5xx). Then run it again: it continues where it stopped.
    """
    command = "audit"
    settings, config = settings_and_config(command)
    now = utc_now()
    try:
        asked = AuditAsked(
            since=moment_of(since, now),
            until=moment_of(until, now) if until else None,
            scope=f"{since} {until}".strip(),
            grace=span_of(grace),
            settle_s=settle,
            fresh=fresh,
        )
    except ValueError as error:
        refuse(command, error)
    with exits(command):
        key_and_base(settings, config)
    reports = run_or_exit(
        command,
        lambda: run(settings, config, asked, account or [], all_accounts=all_accounts, most=limit),
        no=(ApiTrouble, AnotherAudit),
    )
    show_reports(reports, as_json=as_json)
    if any(report.is_unavailable for report in reports):
        raise typer.Exit(ExitCode.UNAVAILABLE)
    raise typer.Exit(ExitCode.DONE if all(report.agrees for report in reports) else ExitCode.NO)


def show_reports(reports: list[AuditReport], *, as_json: bool) -> None:
    """Print the reports; the last line of each account is its verdict."""
    if as_json:
        say_json(plain_reports(reports))
        return
    for report in reports:
        resumed = ", resumed" if report.is_resumed else ""
        compared = ", ".join(f"{count} {name}" for name, count in report.counts.items()) or "nothing"
        name = report.account or "own account"
        say(f"{name}, {_at(report.window_from)} to {_at(report.window_until)}{resumed}: {compared} compared")
        if report.events_since is not None:
            say(f"events since {_at(report.events_since)} only: Stripe lists them for 30 days")
        if report.totals:
            columns = [Column("day", whole=True), Column("currency"), Column("what")]
            amounts = [Column("Stripe", right=True), Column("tables", right=True)]
            rows = [(one.day, one.currency, one.what, one.stripe, one.ours) for one in report.totals]
            show_rows([*columns, *amounts], rows, title="totals in minor units, days in UTC")
        if report.differences:
            _show_differences(report)
        say(f"{name}: {verdict(report)}")


def verdict(report: AuditReport) -> str:
    """Return the last line of an account."""
    if report.trouble is not None:
        return f"stopped, run it again to continue: {report.trouble}"
    if report.agrees:
        return "the books agree"
    return f"{report.differing} differences" if report.differing > 1 else "1 difference"


def _show_differences(report: AuditReport) -> None:
    rows = [
        (one.kind, one.id, name, one_side, other, one.cause, one.repair)
        for one in report.differences
        for name, (one_side, other) in one.fields.items()
    ]
    names = ("kind", "id", "field", "Stripe", "table", "cause", "repair")
    show_rows([Column(name) for name in names], rows, title="differences")
    say_cut(len(report.differences), report.differing, as_json=False)


def plain_reports(reports: list[AuditReport]) -> list[dict[str, Any]]:
    """Return the reports as values for JSON."""
    return [_plain(report) for report in reports]


def _plain(report: AuditReport) -> dict[str, Any]:
    return {
        "account": report.account,
        "window_from": report.window_from,
        "window_until": report.window_until,
        "events_since": report.events_since,
        "resumed": report.is_resumed,
        "run_id": report.run_id,
        "counts": report.counts,
        "agrees": report.agrees,
        "trouble": report.trouble,
        "differing": report.differing,
        "totals": [
            {"day": one.day, "currency": one.currency, "what": one.what, "stripe": one.stripe, "tables": one.ours}
            for one in report.totals
        ],
        "differences": [
            {
                "kind": one.kind,
                "id": one.id,
                "cause": one.cause,
                "repair": one.repair,
                "fields": {name: {"stripe": both[0], "table": both[1]} for name, both in one.fields.items()},
            }
            for one in report.differences
        ],
    }


def _at(moment: datetime) -> str:
    return second_text(moment)
