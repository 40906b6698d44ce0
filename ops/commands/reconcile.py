"""`billing reconcile`: what Stripe has told within the last day and never arrived, and that onto the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from ops.commands.terminal import EXIT_INVALID_SETTINGS, settings_and_config
from ops.commands.times import moment_of, span_of
from ops.reconcile_show import show_drifts, show_reports
from recovery.reconcile.events import AnotherIsAtIt, Asked
from recovery.reconcile.objects import Comparison, DriftReport, repair
from recovery.reconcile.report import Report
from recovery.reconcile.window import KEPT
from recovery.reconcile.wiring import accounts_asked, key_and_base, listing, logging, reconciler
from schemas.errors import BillingError
from schemas.settings import Config, InvalidSettings, Settings
from sinks.stripe_api.api import ApiTrouble

EXIT_TROUBLE = 1
EXIT_FOUND = 3


def reconcile(
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, or a time (ISO 8601). Default: a day.")] = "",
    until: Annotated[str, typer.Option(help="Up to when: a span ago, or a time. Default: now, less --grace.")] = "",
    account: Annotated[list[str] | None, typer.Option(help="A connected account, instead of one's own.")] = None,
    all_accounts: Annotated[bool, typer.Option("--all-accounts", help="One's own and every connected one.")] = False,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Only events of this type (up to 20).")] = None,
    undelivered: Annotated[
        bool, typer.Option("--undelivered", help="Only what Stripe knows that no endpoint took.")
    ] = False,
    grace: Annotated[str, typer.Option(help="Younger events may still be on their way.")] = "5m",
    objects: Annotated[bool, typer.Option("--objects", help="Compare subscriptions and invoices instead.")] = False,
    repair_: Annotated[
        bool, typer.Option("--repair", help="With --objects: put what Stripe has onto the log.")
    ] = False,
    settle: Annotated[float, typer.Option(min=0, max=3600, help="With --objects: seconds to look again after.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
) -> None:
    """Find what Stripe told and never arrived, and put it onto the log. A run that was killed is taken up again.

    Example: billing reconcile --since 7d --all-accounts --dry-run

    With --objects it compares what Stripe has of subscriptions and invoices with the tables, field by field.

    Exits 0 if nothing is missing any more, 1 on trouble (some of it may be done: run it again), 2 if a setting is
    unusable, 3 if something is missing or differs and was left so.
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


async def run(
    settings: Settings, config: Config, asked: Asked, accounts: list[str], *, all_accounts: bool
) -> list[Report]:
    """Raises InvalidSettings, StoreUnavailable, LogUnavailable, ApiTrouble, AnotherIsAtIt."""
    async with reconciler(settings, config, clock=_now) as wired:
        return await wired.run(asked, await accounts_asked(wired.lists, accounts, all_accounts=all_accounts))


async def compare(
    settings: Settings,
    config: Config,
    asked: Asked,
    accounts: list[str],
    *,
    all_accounts: bool,
    repairs: bool,
    settle_s: float,
) -> list[DriftReport]:
    """Raises InvalidSettings, StoreUnavailable, LogUnavailable, ApiTrouble."""
    async with listing(settings, config) as lists, logging(settings) as event_log:
        comparison = await Comparison.connect(lists, settings.database_url)
        try:
            found = []
            for account in await accounts_asked(lists, accounts, all_accounts=all_accounts):
                report = await comparison.drift(account, asked.since or _now() - KEPT, settle_s=settle_s)
                if repairs and not asked.dry_run:
                    report.queued = await repair(report.drifts, event_log, livemode=lists.mode.livemode, clock=_now)
                found.append(report)
            return found
        finally:
            comparison.close()


def _exit_code(ended: Iterable[tuple[str | None, int]]) -> int:
    """Of trouble, and of what was found and left so."""
    ended = list(ended)
    if any(trouble for trouble, _ in ended):
        return EXIT_TROUBLE
    return EXIT_FOUND if any(left for _, left in ended) else 0


def _now() -> datetime:
    return datetime.now(UTC)
