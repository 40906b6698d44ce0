"""`billing analytics`: the figures' consumer, and their recount."""

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
    """Keep MRR, payments and recoveries up to date, as a consumer group of its own.

    Example: billing analytics &   then   billing mrr --by plan

    SIGTERM ends it with exit code 0. Exits 2 if a setting is unusable, 70 when it met what it cannot help.
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
        except (AnalyticsCrashed, OpsAddressTaken, StoreUnavailable) as error:
            typer.echo(f"billing analytics: {error}", err=True)
            raise typer.Exit(1) from None


@app.command()
def recount(
    forget: Annotated[
        bool, typer.Option("--forget", help="Drop all facts first: figures then begin where the log begins.")
    ] = False,
) -> None:
    """Count all figures anew, from the topic's start: after prices moved between plans, or to be sure.

    Example: billing analytics recount

    It may run beside the consumer. Facts that are older than the log are kept. Says how many rows were not as they
    should be. Exits 2 if a setting is unusable, 3 if Kafka or Postgres does not answer.
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
        f"{counted.facts} facts from the log ({counted.unreadable} records could not be read), {owners} owners: "
        f"{counted.rows} rows of figures were changed"
    )
