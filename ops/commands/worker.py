"""`billing worker`: the process that applies events."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
import uvloop

from ops.commands.terminal import settings_and_config
from ops.processes.worker import _ALL, WorkerCrashed, run
from schemas.errors import LogUnavailable, StoreUnavailable
from schemas.settings import InvalidSettings
from streams.process import OTHER
from streams.rules.catalog import STREAMS


def worker(
    streams: Annotated[
        list[str] | None, typer.Argument(help="Run only these streams, in their own consumer group.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Leave this stream to another group. Repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume-after-brake", help="Continue although too many events died with this code.")
    ] = False,
) -> None:
    """Apply events: read them from the log, decide by the rules, and write the results to Postgres.

    Example: billing worker            (all streams, one group)
             billing worker invoices   (one stream, in its own group)
             billing worker --without invoices   (the other streams, in the first group)

    If too many events die it stops with exit code 71. After a restart it waits for different code, for `billing brake
    release`, or for --resume-after-brake. Exits 1 if Postgres does not answer at the start, 2 if a setting or stream is
    invalid, 3 if Kafka does not answer at the start, 70 if it is stuck or meets an event that it can neither apply nor
    dead-letter.
    """
    only, left_out = frozenset(streams or ()), frozenset(without or ())
    unknown = (only | left_out) - _ALL
    if unknown:
        typer.echo(f"no such stream: {', '.join(sorted(unknown))} (there are {', '.join(STREAMS)}, {OTHER})", err=True)
        raise typer.Exit(2)
    if only and left_out:
        typer.echo("name streams, or leave some out with --without, but not both", err=True)
        raise typer.Exit(2)
    settings, config = settings_and_config()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # the consumer's thread creates a loop of its own
    with asyncio.Runner() as runner:
        try:
            runner.run(run(settings, config, only, without=left_out, resume_after_brake=resume))
        except LogUnavailable as error:
            typer.echo(f"billing worker: {error}", err=True)
            raise typer.Exit(3) from None
        except (InvalidSettings, WorkerCrashed, StoreUnavailable) as error:
            typer.echo(f"worker: {error}", err=True)
            raise typer.Exit(1) from None
