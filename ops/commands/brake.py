"""`billing brake ls|release`: lists and releases consumer groups that the brake has stopped (behaviours.md D5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import database_or_exit, fail, run_or_exit, say, say_json
from ops.commands.times import second_text
from ops.runtime.printable import printable
from sinks.postgres.brakes import Brakes

app = typer.Typer(help="List and release workers that stopped because too many events died.", no_args_is_help=True)

T = TypeVar("T")


@app.command("ls")
def ls(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False) -> None:
    """List the consumer groups that the brake has ever stopped, the latest first, with a sample of the reasons.

    Example: billing brake ls --json
    """
    found = _with_brakes("brake ls", lambda brakes: brakes.all())
    for held in found:
        if as_json:
            say_json(asdict(held))
            continue
        if held.released_at is not None:
            end = f"released by {held.released_by} at {second_text(held.released_at)}"
        elif held.passed_at is not None:
            end = f"passed by {held.passed_by} at {second_text(held.passed_at)}, holds only"
        else:
            end = "HOLDS"
        say(f"{held.consumer_group}  {end}  code {held.code_version}  {second_text(held.tripped_at)}  {held.message}")
        for reason in held.reasons:
            say(f"    {printable(reason)}")
    if not found and not as_json:
        say("the brake has never stopped a consumer group")


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
    command = "brake release"
    settings = database_or_exit(command)
    name = group or f"{settings.topic_prefix}.worker"
    allowed = settings.brake_window if let_die is None else let_die
    entry = entry_for(command, by, target=name, filter={"let_die": allowed})
    if not _with_brakes(command, lambda brakes: brakes.release(name, entry.who, let_die=allowed, entry=entry)):
        fail(command, f"the brake does not hold {name}")
    say(f"{name} is released; {allowed} more dead events are allowed before the brake trips again")


def _with_brakes(command: str, work: Callable[[Brakes], Awaitable[T]]) -> T:
    settings = database_or_exit(command)

    async def go() -> T:
        return await work(Brakes(settings.database_url, application="billing-ops"))

    return run_or_exit(command, go)
