"""`billing import`: reads the customers of an existing Stripe account into this system (behaviours.md F1)."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import (
    exits,
    progress,
    refuse,
    run_or_exit,
    say,
    say_json,
    settings_and_config,
    show_pairs,
)
from ops.commands.times import moment_of
from ops.runtime.exit_codes import ExitCode
from recovery.imports.importer import Importer, ImportReport
from recovery.reconcile.wiring import logging
from recovery.stripe_lists import key_and_base, listing
from schemas.timing import utc_now
from sinks.postgres.audited import recorded
from sinks.stripe_api.api import ApiTrouble


def import_(
    since: Annotated[
        str, typer.Option(help="Also settled invoices created at or after: 90d (ago), or ISO 8601. Open ones always.")
    ] = "90d",
    account: Annotated[str, typer.Option(help="A connected account instead of your own.")] = "",
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again instead of continuing an interrupted import.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Import customers, default cards, subscriptions, invoices and disputes from Stripe, through the log.

    Example: billing import --since 90d

    It sends no mail and calls nothing; reminders that are still ahead are set. Events may arrive at the same time:
    newer ones win. A second import changes nothing. An interrupted one continues where it was.

    Exits 0 if everything was appended, 1 if an object does not fit into the log or Stripe refuses a request, 2 if a
    setting is invalid, 3 if Stripe or Kafka does not answer (run it again).
    """
    command = "import"
    settings, config = settings_and_config(command)
    with exits(command):
        key_and_base(settings, config)
    try:
        moment = moment_of(since, utc_now())
    except ValueError as error:
        refuse(command, error)
    if account and not account.replace("_", "").isalnum():
        refuse(command, f"--account {account}: not the id of an account")
    place = settings.state_dir / f"import-{account or 'own'}.json"
    if restart:
        place.unlink(missing_ok=True)

    entry = entry_for(command, target=account, filter={"since": since, "restart": restart})

    async def work() -> ImportReport:
        async with listing(settings, config) as lists, logging(settings) as event_log:
            work = Importer(lists=lists, event_log=event_log, account=account, progress_file=place, clock=utc_now)
            with progress("objects") as bar:
                async with recorded(settings.database_url, entry) as noted:
                    report = await work.run(moment, bar)
                    noted.count = report.appended
                return report

    report = run_or_exit(command, work, no=(ApiTrouble,))
    _show(report, as_json=as_json)
    if report.too_large:
        raise typer.Exit(ExitCode.NO)


def _show(report: ImportReport, *, as_json: bool) -> None:
    if as_json:
        found = {"read": dict(report.read), "appended": report.appended, "too_large": report.too_large}
        say_json(found | {"resumed_at": report.resumed_at})
        return
    if report.resumed_at is not None:
        say(f"continued at {report.resumed_at}")
    show_pairs(dict(report.read))
    say(f"{report.appended} events appended; the workers apply them")
    if report.too_large:
        say(f"{report.too_large} objects are too large for the log")
