"""`billing import`: reads the customers of an existing Stripe account into this system (behaviours.md F1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from ops.commands.accounts import is_account
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
from recovery.imports.importer import AnotherImport, ImportReport, Progress
from recovery.imports.wiring import importer
from recovery.stripe_lists import key_and_base
from schemas.timing import utc_now
from sinks.postgres.audited import recorded
from sinks.stripe_api.api import ApiTrouble


def import_(
    since: Annotated[
        str,
        typer.Option(help="Settled invoices and refunds created since: 90d (ago), or ISO 8601."),
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
    newer ones win. A second import applies the present state again, which repairs what differs. An interrupted one
    continues where it was, within a day. Events about these objects from before the first import need not have arrived,
    if it read at least the last 30 days and all objects fit: `billing audit` does not miss them.

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
    _show(report, as_json=as_json)
    if report.too_large:
        raise typer.Exit(ExitCode.NO)


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


def _show(report: ImportReport, *, as_json: bool) -> None:
    if as_json:
        found = {"read": dict(report.read), "appended": report.appended, "too_large": report.too_large}
        say_json(found | {"resumed_at": report.resumed_at})
        return
    if report.resumed_at is not None:
        say(f"continued at {report.resumed_at}")
    show_pairs(dict(report.read))
    say(f"{report.appended} events appended; the workers apply them")
    say(f"when they have: billing audit --since {report.since:%Y-%m-%d}" if report.since else "")
    if report.too_large:
        say(f"{report.too_large} objects are too large for the log")
