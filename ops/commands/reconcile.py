"""`billing reconcile`: finds events of the last day that never arrived, and appends them to the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import (
    Column,
    exits,
    progress,
    refuse,
    run_or_exit,
    say,
    say_json,
    settings_and_config,
    show_pairs,
    show_rows,
)
from ops.commands.times import moment_of, second_text, span_of
from ops.runtime.exit_codes import ExitCode
from recovery.reconcile.events import AnotherIsAtIt, ReconcileRequest
from recovery.reconcile.objects import DriftReport
from recovery.reconcile.refetch import path_of
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.wiring import compare, refetch_objects, run
from recovery.stripe_lists import key_and_base
from schemas.settings import Config, Settings
from schemas.timing import utc_now
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.audited import recorded
from sinks.stripe_api.api import ApiTrouble


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
    object_: Annotated[
        list[str] | None,
        typer.Option(
            "--object",
            help="Append the present state of this object at Stripe (sub_…, in_…, re_…, ch_…, cus_…) "
            "to the log, and nothing else. Repeatable.",
        ),
    ] = None,
    settle: Annotated[
        float, typer.Option(min=0, max=3600, help="With --objects: seconds before differing objects are checked again.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report; append nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find events at Stripe that never arrived, and append them to the log. Resumes an interrupted run.

    Example: billing reconcile --since 7d --all-accounts --dry-run

    With --objects it compares subscriptions and invoices at Stripe with the tables, field by field. With --object it
    appends one object as it is now, without a comparison.

    Exits 0 if nothing is missing any more, 1 if something is missing or differs and was not repaired, 2 if a setting
    is invalid, 3 if Stripe, Kafka or Postgres does not answer, or Stripe refuses for a time (HTTP 409, 429, 5xx). Then
    a part may be done: run it again.
    """
    command = "reconcile"
    settings, config = settings_and_config(command)
    now = utc_now()
    try:
        asked = ReconcileRequest(
            since=moment_of(since, now) if since else None,
            until=moment_of(until, now) if until else None,
            types=tuple(type_ or ()),
            undelivered_only=undelivered,
            dry_run=dry_run,
            grace=span_of(grace),
        )
    except ValueError as error:
        refuse(command, error)
    with exits(command):
        key_and_base(settings, config)
    if object_:
        _refetch(settings, config, object_, account or [])
        return
    entry = entry_for(
        command,
        filter={"since": since, "until": until, "types": type_, "accounts": account, "objects": objects},
    )
    no = (ApiTrouble, AnotherIsAtIt)
    accounts = account or []
    if objects:
        with progress("compared") as moved:

            async def compared() -> list[DriftReport]:
                return await compare(
                    settings,
                    config,
                    asked,
                    accounts,
                    all_accounts=all_accounts,
                    repairs=repair_,
                    settle_s=settle,
                    progress=lambda report: moved(report.compared.total(), None),
                )

            drifts = run_or_exit(command, lambda: _repairing(settings, entry, compared, repair_), no=no)
        show_drifts(drifts, as_json=as_json)
        raise typer.Exit(_exit_code([(report, report.differing - report.queued) for report in drifts]))

    async def reconciled() -> list[ReconcileReport]:
        return await run(settings, config, asked, accounts, all_accounts=all_accounts)

    reports = run_or_exit(command, lambda: _feeding(settings, entry, reconciled, not dry_run), no=no)
    show_reports(reports, as_json=as_json, is_dry=dry_run)
    raise typer.Exit(_exit_code([(report, report.missing - report.fed) for report in reports]))


def _refetch(settings: Settings, config: Config, object_ids: list[str], accounts: list[str]) -> None:
    if len(accounts) > 1:
        refuse("reconcile", "--object needs one --account at most")
    try:
        for id_ in object_ids:
            path_of(id_)
    except ValueError as error:
        refuse("reconcile", error)
    account = accounts[0] if accounts else ""
    entry = entry_for("reconcile", target=object_ids[0] if len(object_ids) == 1 else "", filter={"object": object_ids})

    async def work() -> int:
        async with recorded(settings.database_url, entry) as noted:
            noted.count = await refetch_objects(settings, config, object_ids, account)
        return noted.count

    say(f"{run_or_exit('reconcile', work, no=(ApiTrouble,))} queued")


async def _feeding(
    settings: Settings, entry: AuditEntry, work: Callable[[], Awaitable[list[ReconcileReport]]], appends: bool
) -> list[ReconcileReport]:
    """Run the work, and record it if it appends missing events."""
    if not appends:
        return await work()
    async with recorded(settings.database_url, entry) as noted:
        reports = await work()
        noted.count = sum(report.fed for report in reports)
        noted.trouble = next((report.trouble for report in reports if report.trouble), None)
    return reports


async def _repairing(
    settings: Settings, entry: AuditEntry, work: Callable[[], Awaitable[list[DriftReport]]], appends: bool
) -> list[DriftReport]:
    """Run the comparison, and record it if it appends differing objects."""
    if not appends:
        return await work()
    async with recorded(settings.database_url, entry) as noted:
        reports = await work()
        noted.count = sum(report.queued for report in reports)
        noted.trouble = next((report.trouble for report in reports if report.trouble), None)
    return reports


def _exit_code(ended: Sequence[tuple[ReconcileReport | DriftReport, int]]) -> ExitCode:
    """Return the exit code. `ended` has each report and the number of its findings that were not repaired."""
    if any(report.is_unavailable for report, _ in ended):
        return ExitCode.UNAVAILABLE
    return ExitCode.NO if any(report.trouble or left for report, left in ended) else ExitCode.DONE


_SHOWN = 20


def show_reports(reports: list[ReconcileReport], *, as_json: bool, is_dry: bool) -> None:
    if as_json:
        say_json([report.plain() for report in reports])
        return
    for report in reports:
        resumed = f", resumed at {_at(report.resumed_at)}" if report.resumed_at else ""
        done = "nothing appended (dry run)" if is_dry else f"{report.fed} appended"
        say(
            f"{_of(report.account)}, {_at(report.window_from)} to {_at(report.window_until)}{resumed}: "
            f"{report.listed} listed, {report.on_the_way} in flight, {report.missing} missing, {done}",
        )
        if report.too_large:
            say(f"{report.too_large} of them are too large for the log")
        if report.trouble:
            say(f"stopped: {report.trouble}")
        if report.missing:
            show_pairs(dict(report.by_type.most_common()), title="by type")
            show_pairs(report.by_age, title="by age")


def show_drifts(reports: list[DriftReport], *, as_json: bool) -> None:
    if as_json:
        say_json([_plain(report) for report in reports])
        return
    for report in reports:
        compared = ", ".join(f"{count} {kind}s" for kind, count in report.compared.items()) or "nothing"
        say(f"{_of(report.account)}: {compared} compared, {report.differing} differ, {report.queued} queued")
        if report.unreadable:
            say(f"{report.unreadable} could not be read")
        if report.trouble:
            say(f"stopped: {report.trouble}")
        if report.drifts:
            show_pairs(report.by_field, title="by field")
            _show_drift(report)


def _plain(report: DriftReport) -> dict[str, object]:
    return {
        "account": report.account,
        "compared": dict(report.compared),
        "unreadable": report.unreadable,
        "queued": report.queued,
        "differing": report.differing,
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


def _show_drift(report: DriftReport) -> None:
    rows = [
        (drift.id, name, one, "no row" if drift.missing else other)
        for drift in report.drifts[:_SHOWN]
        for name, (one, other) in drift.fields.items()
    ]
    show_rows([Column(name) for name in ("object", "field", "Stripe", "table")], rows, title=f"first {_SHOWN}")


def _of(account: str) -> str:
    return account or "own account"


def _at(moment: datetime) -> str:
    return second_text(moment)
