"""`billing calls ls|requeue`: lists the calls to Stripe in the outbox, and queues failed ones again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, TypeVar

import orjson
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ops.commands.terminal import EXIT_INVALID_SETTINGS, PIPE_WIDTH, printable
from schemas.errors import StoreUnavailable
from schemas.settings import InvalidSettings, load_settings
from sinks.stripe_calls.calls import Calls

app = typer.Typer(help="List the calls to Stripe's API, and requeue failed ones.", no_args_is_help=True)

T = TypeVar("T")


class CallStatus(StrEnum):
    """Statuses of a call in the outbox that `ls` can filter by."""

    QUEUED = "queued"
    CALLING = "calling"
    DONE = "done"
    FAILED = "failed"


@app.command("ls")
def ls(
    status: Annotated[CallStatus, typer.Option(help="Only calls with this status.")] = CallStatus.FAILED,
    every: Annotated[bool, typer.Option("--all", help="Calls with any status.")] = False,
    purpose: Annotated[str | None, typer.Option(help="Only calls with this purpose.")] = None,
    customer: Annotated[str | None, typer.Option(help="Only calls of this customer (cus_…).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List calls, newest first. By default only failed ones.

    Example: billing calls ls --status queued --purpose "settle a tie" --json
    """
    wanted = None if every else status.value
    rows = _with_calls(lambda calls: calls.list(status=wanted, kind=purpose, customer_id=customer, limit=limit))
    if as_json:
        for row in rows:
            typer.echo(orjson.dumps(row).decode())
        return
    if not rows:
        typer.echo(f"no {wanted + ' ' if wanted else ''}calls")
        return
    rest = ("call", "purpose", "status", "tries", "queued", "last error")
    table = Table(
        Column("key", no_wrap=True), *rest, box=None, pad_edge=False
    )  # the key is copied into `requeue`, so it must be complete
    for row in rows:
        call, queued = f"{row['method']} {row['path']}", f"{row['queued_at']:%Y-%m-%d %H:%M}"
        error = row["last_error"] or ""
        cells = (row["call_key"], call, row["purpose"], row["status"], str(row["attempts"]), queued, error)
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in cells))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


@app.command("requeue")
def requeue(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of calls, as listed by `billing calls ls`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All failed calls, oldest first, up to --limit.")] = False,
    purpose: Annotated[str | None, typer.Option(help="With --all: only calls with this purpose.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="With --all: at most this many.")] = 1000,
) -> None:
    """Queue failed calls again, with a new set of tries and the same idempotency keys.

    Example: billing calls requeue --all --purpose "set the default payment method"

    For a day Stripe repeats its first answer to an idempotency key, even if that answer was an error during the call.
    Exits 1 if a given key does not belong to a failed call.
    """
    if bool(keys) == every:
        typer.echo("billing calls requeue: give keys or --all", err=True)
        raise typer.Exit(2)
    chosen = None if every else list(keys or ())
    done = _with_calls(lambda calls: calls.requeue(keys=chosen, kind=purpose, limit=limit))
    for key in done:
        typer.echo(key)
    missing = sorted(set(chosen or ()) - set(done))
    typer.echo(f"{len(done)} requeued", err=True)
    if missing:
        typer.echo(f"not a failed call: {', '.join(missing)}", err=True)
        raise typer.Exit(1)


def _with_calls(work: Callable[[Calls], Awaitable[T]]) -> T:
    async def go(url: SecretStr) -> T:
        calls = await Calls.connect(url, claimer="operator", pool_size=1, application="billing-ops")
        try:
            return await work(calls)
        finally:
            await calls.close()

    try:
        return asyncio.run(go(load_settings().database_url))
    except InvalidSettings as error:
        typer.echo(f"billing calls: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except StoreUnavailable as error:
        typer.echo(f"billing calls: Postgres does not answer: {error}", err=True)
        raise typer.Exit(1) from None
