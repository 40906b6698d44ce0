"""`billing analytics`: runs the consumer that keeps the figures, and recounts them."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
import uvloop

from analytics import recount as recounting
from ops.commands.terminal import EXIT_INVALID_SETTINGS, settings_and_config
from ops.processes.analytics import AnalyticsCrashed, run
from ops.runtime.health import OpsAddressTaken
from schemas.errors import LogUnavailable, StoreUnavailable
from schemas.settings import InvalidSettings

app = typer.Typer(invoke_without_command=True)


@app.callback()
def analytics(context: typer.Context) -> None:
    """Keep the figures of MRR, payments and recoveries up to date. Reads the log in its own consumer group.

    Example: billing analytics &   then   billing mrr --by plan

    SIGTERM stops it with exit code 0. Exits 1 if Postgres does not answer at the start, the ops port is in use or the
    consumer crashes, 2 if a setting is invalid, 3 if Kafka does not answer at the start, 70 if it is stuck or meets an
    unexpected error.
    """
    if context.invoked_subcommand is not None:
        return
    settings, config = settings_and_config()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run(settings, config))
        except InvalidSettings as error:
            typer.echo(f"billing analytics: {error}", err=True)
            raise typer.Exit(EXIT_INVALID_SETTINGS) from None
        except LogUnavailable as error:
            typer.echo(f"billing analytics: {error}", err=True)
            raise typer.Exit(3) from None
        except (AnalyticsCrashed, OpsAddressTaken, StoreUnavailable) as error:
            typer.echo(f"billing analytics: {error}", err=True)
            raise typer.Exit(1) from None


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
    settings, config = settings_and_config()
    try:
        counted, owners = asyncio.run(recounting.recount(settings, config, forget=forget))
    except InvalidSettings as error:
        typer.echo(f"billing analytics recount: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except (LogUnavailable, StoreUnavailable) as error:
        typer.echo(f"billing analytics recount: {error}", err=True)
        raise typer.Exit(3) from None
    typer.echo(
        f"{counted.facts} facts from the log ({counted.unreadable} unreadable records), {owners} owners: "
        f"{counted.rows} rows of figures changed"
    )
