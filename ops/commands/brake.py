"""The brake, from the operator's side: `billing brake ls|release`, and a worker that waits until it is released."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import orjson
import structlog
import typer

from ops.commands.terminal import EXIT_INVALID_SETTINGS
from ops.runtime.operator import operator
from schemas.errors import StoreUnavailable
from schemas.settings import InvalidSettings, Settings, load_settings
from sinks.postgres.brakes import Brakes

log = structlog.get_logger(__name__)

app = typer.Typer(help="The brake that stops a worker when too many events die.", no_args_is_help=True)

T = TypeVar("T")

EXIT_BRAKED = 71
"""Of a worker whose brake has tripped; started again, it waits until it is released."""
EXIT_UNAVAILABLE = 3


@app.command("ls")
def ls(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the groups that have ever stopped, the latest first, with a sample of the reasons.

    Example: billing brake ls --json
    """
    for held in _with_brakes(lambda brakes: brakes.all()):
        if as_json:
            typer.echo(orjson.dumps(asdict(held)).decode())
            continue
        end = f"released by {held.released_by} at {held.released_at:%F %T}" if held.released_at else "HOLDS"
        typer.echo(f"{held.consumer_group}  {end}  code {held.code_version}  {held.tripped_at:%F %T}  {held.message}")
        for reason in held.reasons:
            typer.echo(f"    {reason}")


@app.command("release")
def release(
    group: Annotated[str | None, typer.Option(help="The consumer group; by default the one of all streams.")] = None,
    let_die: Annotated[
        int | None, typer.Option(min=0, help="So many more may die before it trips again; default: its window.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who says so; by default the user of this system.")] = None,
) -> None:
    """Let a stopped group go on with the code it has. A fixed version, deployed, goes on by itself.

    Example: billing brake release --let-die 500

    Exits 1 if nothing held that group.
    """
    settings = _settings()
    name = group or f"{settings.topic_prefix}.worker"
    allowed = settings.brake_window if let_die is None else let_die
    if not _with_brakes(lambda brakes: brakes.release(name, by or operator(), let_die=allowed)):
        typer.echo(f"billing brake: nothing holds {name}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{name} goes on; {allowed} more may die before the brake trips again")


def _settings() -> Settings:
    try:
        return load_settings()
    except InvalidSettings as error:
        typer.echo(f"billing brake: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None


def _with_brakes(work: Callable[[Brakes], Awaitable[T]]) -> T:
    async def go(settings: Settings) -> T:
        return await work(Brakes(settings.database_url, application="billing-ops"))

    settings = _settings()
    try:
        return asyncio.run(go(settings))
    except InvalidSettings as error:
        typer.echo(f"billing brake: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except StoreUnavailable as error:
        typer.echo(f"billing brake: Postgres does not answer: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
