"""`billing brake ls|release`: lists and releases consumer groups that the brake has stopped (behaviours.md D5)."""

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

app = typer.Typer(help="List and release workers that stopped because too many events died.", no_args_is_help=True)

T = TypeVar("T")

EXIT_BRAKED = 71
"""Exit code of a worker when its brake trips. After a restart it waits until the brake is released."""
EXIT_UNAVAILABLE = 3


@app.command("ls")
def ls(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False) -> None:
    """List the consumer groups that the brake has ever stopped, the latest first, with a sample of the reasons.

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
    group: Annotated[str | None, typer.Option(help="The consumer group. Default: the one of all streams.")] = None,
    let_die: Annotated[
        int | None,
        typer.Option(
            min=0, help="Allow this many more dead events before it trips again. Default: BILLING_BRAKE_WINDOW."
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Your name, for the record. Default: the system user.")] = None,
) -> None:
    """Let a stopped group continue with the same code. After deploying a fixed version this is not necessary.

    Example: billing brake release --let-die 500

    Exits 1 if the brake does not hold that group, 2 if a setting is invalid, 3 if Postgres does not answer.
    """
    settings = _settings()
    name = group or f"{settings.topic_prefix}.worker"
    allowed = settings.brake_window if let_die is None else let_die
    if not _with_brakes(lambda brakes: brakes.release(name, by or operator(), let_die=allowed)):
        typer.echo(f"billing brake: the brake does not hold {name}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{name} is released; {allowed} more dead events are allowed before the brake trips again")


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
