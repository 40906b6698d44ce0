"""`billing analytics`: runs the consumer that keeps the figures, and recounts them."""

from __future__ import annotations

from typing import Annotated

import typer

from analytics import recount as recounting
from analytics.book import Counted
from ops.commands.acting import entry_for
from ops.commands.terminal import run_or_exit, say, settings_and_config
from ops.processes.analytics import run
from ops.processes.skeleton import run_process
from sinks.postgres.audited import recorded

app = typer.Typer(invoke_without_command=True)


@app.callback()
def analytics(context: typer.Context) -> None:
    """Keep the figures of MRR, payments and recoveries up to date. Reads the log in its own consumer group.

    Example: billing analytics &   then   billing mrr --by plan

    SIGTERM stops it with exit code 0. Exits 1 if the ops port is in use, 2 if a setting is invalid, 3 if Kafka or
    Postgres does not answer at the start, 70 if it is stuck, crashes or meets an unexpected error.
    """
    if context.invoked_subcommand is not None:
        return
    settings, config = settings_and_config("analytics")
    raise typer.Exit(run_process("analytics", lambda: run(settings, config)))


@app.command()
def recount(
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete all facts first. Figures then start where the log starts.")
    ] = False,
) -> None:
    """Count all figures again from the start of the log. Use it after moving prices between plans, or as a check.

    Example: billing analytics recount

    It may run at the same time as the consumer. Facts that are older than the log are kept. Prints how many rows of
    figures were wrong and are now corrected. Exits 2 if a setting is invalid, 3 if Kafka or Postgres does not answer.
    """
    command = "analytics recount"
    settings, config = settings_and_config(command)

    async def work() -> tuple[Counted, int]:
        if not forget:
            return await recounting.recount(settings, config)
        entry = entry_for("analytics recount", filter={"forget": True})
        async with recorded(settings.database_url, entry) as noted:
            counted, owners = await recounting.recount(settings, config, forget=True)
            noted.count = counted.rows
        return counted, owners

    counted, owners = run_or_exit(command, work)
    say(
        f"{counted.facts} facts from the log ({counted.unreadable} unreadable records), {owners} owners: "
        f"{counted.rows} rows of figures changed"
    )
