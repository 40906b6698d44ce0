"""`billing worker`: the process that applies events."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
import uvloop

from ops.commands.terminal import settings_and_config
from ops.processes.worker import _ALL, WorkerCrashed, run
from schemas.errors import StoreUnavailable
from schemas.settings import InvalidSettings
from streams.process import OTHER
from streams.rules.catalog import STREAMS


def worker(
    streams: Annotated[
        list[str] | None, typer.Argument(help="Run only these streams, as a consumer group of their own.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Leave this stream to a group of its own; may be repeated.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume-after-brake", help="Go on, though too many events died under this code.")
    ] = False,
) -> None:
    """Apply events: read the log, decide, write Postgres.

    Example: billing worker            (all streams, one group)
             billing worker invoices   (one stream, a group of its own)
             billing worker --without invoices   (the rest, in the first group)

    When too many events die it stops (exit 71); started again, it waits: for other code, `billing brake release`, or
    --resume-after-brake. Exits 70 when it is stuck, or met what it can neither apply nor dead-letter.
    """
    asked_for, left_out = frozenset(streams or ()), frozenset(without or ())
    unknown = (asked_for | left_out) - _ALL
    if unknown:
        typer.echo(f"no such stream: {', '.join(sorted(unknown))} (there are {', '.join(STREAMS)}, {OTHER})", err=True)
        raise typer.Exit(2)
    if asked_for and left_out:
        typer.echo("name streams, or leave some out with --without: not both", err=True)
        raise typer.Exit(2)
    settings, config = settings_and_config()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # also for the loop of the consumer's thread
    with asyncio.Runner() as runner:
        try:
            runner.run(run(settings, config, asked_for, without=left_out, resume_after_brake=resume))
        except (InvalidSettings, WorkerCrashed, StoreUnavailable) as error:
            typer.echo(f"worker: {error}", err=True)
            raise typer.Exit(1) from None
