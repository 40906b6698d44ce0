"""`billing plans check|apply`: brings a changed price list or limit to existing customers (behaviours.md F6)."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import Column, progress, run_or_exit, say, say_json, settings_and_config, show_rows
from ops.runtime.exit_codes import ExitCode
from recovery.plans.customers import PlansReport, comparison
from schemas.settings import Config
from schemas.timing import utc_now
from sinks.postgres.audited import recorded

app = typer.Typer(
    help="Compare what customers have with the plans of the config, and bring a changed config to them.",
    no_args_is_help=True,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("check")
def check(as_json: _Json = False) -> None:
    """Count the customers whose plan, limits or access differ from the config, and list prices that no plan names.

    Example: billing plans check

    Exits 0 if all customers have what the config says and every price has a plan, 1 if not, 2 if a setting is invalid,
    3 if Postgres does not answer.
    """
    report, config = _run("plans check", appends=False)
    _show(report, config, as_json=as_json, ending=f"{report.differing} would change: billing plans apply")
    if report.differing or report.unknown_prices:
        raise typer.Exit(ExitCode.NO)


@app.command("apply")
def apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; append nothing.")] = False,
    as_json: _Json = False,
) -> None:
    """Have the workers derive plan, limits and access of the differing customers again. Sends no mail.

    Example: billing plans apply --dry-run

    Restart the workers with the changed config first: they derive by their own. Then run it; when the workers have
    processed its events, a second run changes nothing.

    Exits 0 if it has done so, 2 if a setting is invalid, 3 if Postgres or Kafka does not answer (run it again).
    """
    report, config = _run("plans apply", appends=not dry_run)
    ending = f"{report.differing} would change (dry run)" if dry_run else f"{report.queued} queued for the workers"
    _show(report, config, as_json=as_json, ending=ending)


def _run(command: str, *, appends: bool) -> tuple[PlansReport, Config]:
    settings, config = settings_and_config(command)

    async def work() -> PlansReport:
        async with comparison(settings, config, appends=appends, clock=utc_now) as compared:
            with progress("customers") as bar:
                if not appends:
                    return await compared.run(bar)
                async with recorded(settings.database_url, entry_for("plans apply")) as noted:
                    report = await compared.run(bar)
                    noted.count = report.queued
                return report

    return run_or_exit(command, work), config


def _show(report: PlansReport, config: Config, *, as_json: bool, ending: str) -> None:
    if as_json:
        say_json(report.plain())
        return
    names = [*config.plans, *(plan for plan in sorted(report.plans) if plan not in config.plans)]
    rows = [(name or "no known plan", report.plans[name]) for name in names]
    show_rows([Column("plan"), Column("customers", right=True)], rows)
    if report.changes:
        say()
        rows = report.changes.most_common()
        show_rows([Column("change"), Column("customers", right=True)], rows)
    if report.unknown_prices:
        say()
        columns = [Column("price that no plan names"), Column("customers", right=True)]
        show_rows(columns, report.unknown_prices.most_common())
    if report.unused_prices:
        say()
        say(f"no running subscription has: {', '.join(report.unused_prices)}")
    say()
    say(f"{report.customers} customers compared, {ending}")
