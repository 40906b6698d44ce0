"""`billing import`: reads the customers of an existing Stripe account into this system (behaviours.md F1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer

from ops.commands.accounts import is_account
from ops.commands.acting import entry_for
from ops.commands.audit import plain_reports, show_reports
from ops.commands.terminal import (
    exits,
    note,
    progress,
    refuse,
    run_or_exit,
    say,
    say_json,
    settings_and_config,
    show_pairs,
)
from ops.commands.times import moment_of, span_of
from ops.runtime.exit_codes import ExitCode
from recovery.audit.audit import AnotherAudit, AuditAsked, AuditReport
from recovery.audit.wiring import run as run_audit
from recovery.imports.applied import wait_until_applied
from recovery.imports.importer import AnotherImport, ImportReport, Progress
from recovery.imports.wiring import importer
from recovery.stripe_lists import key_and_base
from recovery.window import KEPT
from schemas.settings import Config, Settings
from schemas.timing import utc_now
from sinks.postgres.audited import recorded
from sinks.stripe_api.api import ApiTrouble

MOST_DIFFERENCES = 100
"""Differences that are shown of each account. `billing audit --limit` shows more."""


def import_(
    since: Annotated[
        str,
        typer.Option(help="Settled invoices and refunds created since: 90d (ago), or ISO 8601."),
    ] = "90d",
    account: Annotated[str, typer.Option(help="A connected account instead of your own.")] = "",
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again instead of continuing an interrupted import.")
    ] = False,
    audits: Annotated[
        bool, typer.Option("--audit/--no-audit", help="Wait for the workers, then compare with Stripe.")
    ] = True,
    wait: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds without progress of the workers after which it gives up.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Import customers, default cards, subscriptions, invoices and disputes from Stripe, through the log.

    Example: billing import --since 90d

    It sends no mail and calls nothing; reminders that are still ahead are set. Events may arrive at the same time:
    newer ones win. A second import applies the present state again, which repairs what differs. An interrupted one
    continues where it was, within a day. Events about these objects from before the first import need not have arrived,
    if it read at least the last 30 days and all objects fit: `billing audit` does not miss them.

    It ends with that audit of the last 30 days, once the workers have applied everything: "the books agree", or the
    differences with cause and repair.

    Exits 0 if the books agree (with --no-audit: if everything was appended), 1 if they do not, if the workers do not
    apply it, if an object does not fit into the log or Stripe refuses a request, 2 if a setting is invalid, 3 if Stripe
    or Kafka does not answer (run it again).
    """
    command = "import"
    settings, config = settings_and_config(command)
    with exits(command):
        key_and_base(settings, config)
    try:
        moment = moment_of(since, utc_now())
    except ValueError as error:
        refuse(command, error)
    if account and not is_account(account):
        refuse(command, f"--account {account}: not the id of an account")
    entry = entry_for(command, target=account, filter={"since": since, "restart": restart})

    async def work() -> ImportReport:
        async with importer(settings, config, account) as wired:
            with _bars() as say_progress:
                async with recorded(settings.database_url, entry, refused=(AnotherImport,)) as noted:
                    report = await wired.run(moment, say_progress, restart=restart)
                    noted.count = report.appended
                return report

    report = run_or_exit(command, work, no=(ApiTrouble, AnotherImport))
    if not as_json:
        _show(report)
    try:
        reports = _audit(settings, config, account, wait, report.since) if audits else None
    except typer.Exit:  # the import itself is complete
        if as_json:
            say_json(_plain(report) | {"audit": None})
        raise
    if as_json:
        say_json(_plain(report) | {"audit": plain_reports(reports) if reports is not None else None})
    elif reports is not None:
        show_reports(reports, as_json=False)
    elif audits:
        note(f"the workers have not applied it within {wait:g} s. When they have: billing audit --since 30d")
    if any(one.is_unavailable for one in reports or ()):
        raise typer.Exit(ExitCode.UNAVAILABLE)
    agrees = reports is not None and all(one.agrees for one in reports)
    if report.too_large or (audits and not agrees):
        raise typer.Exit(ExitCode.NO)


def _audit(
    settings: Settings, config: Config, account: str, wait: float, imported_since: datetime | None
) -> list[AuditReport] | None:
    """Returns the audit of what was imported, of the last 30 days at most; None if the workers have not applied it."""
    command = "import"

    async def work() -> list[AuditReport] | None:
        with progress("applied") as bar:
            if not await wait_until_applied(settings, idle_s=wait, say=bar):
                return None
        now = utc_now()
        since = max(now - KEPT, imported_since or now - KEPT)
        # What is as young as the import may still be in flight.
        asked = AuditAsked(
            since=since, until=None, scope=f"import {now:%F %T}", grace=span_of("5m"), settle_s=30.0, fresh=True
        )
        named = [account] if account else []
        return await run_audit(settings, config, asked, named, all_accounts=False, most=MOST_DIFFERENCES)

    return run_or_exit(command, work, no=(ApiTrouble, AnotherAudit))


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    """Show one bar after another on a terminal, with the estimated number of objects and the time that is left."""
    with ExitStack() as shown:
        part = ""
        bar: Callable[[int, int | None], None] | None = None

        def say_progress(at: Progress) -> None:
            nonlocal part, bar
            if bar is None or at.part != part:
                shown.close()
                part, bar = at.part, shown.enter_context(progress(at.part))
            bar(at.read, at.about)

        yield say_progress


def _plain(report: ImportReport) -> dict[str, Any]:
    counts = {"read": dict(report.read), "appended": report.appended, "too_large": report.too_large}
    return counts | {"without_discounts": report.without_discounts, "resumed_at": report.resumed_at}


def _show(report: ImportReport) -> None:
    if report.resumed_at is not None:
        say(f"continued at {report.resumed_at}")
    show_pairs(dict(report.read))
    say(f"{report.appended} events appended; the workers apply them")
    if report.since is not None:
        say(f"MRR of past months follows the invoices paid since {report.since:%Y-%m-%d}: what none shows is not known")
        say("    docs/analytics.md, What an import cannot know")
    if report.without_discounts:
        say(f"{report.without_discounts} customers and subscriptions were read without coupons: MRR lacks discounts")
        say("    give the key the right Read on Coupons, and import again")
    if report.too_large:
        say(f"{report.too_large} objects are too large for the log")
