"""`billing calls ls|requeue`: lists the calls to Stripe in the outbox, and queues failed ones again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

from ops.commands.acting import entry_for, keys_or_all
from ops.commands.terminal import (
    Column,
    database_or_exit,
    fail,
    note,
    refuse,
    run_or_exit,
    say,
    say_cut,
    say_json,
    show_rows,
)
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
    rows, total = _with_calls(
        "calls ls", lambda calls: calls.listed(status=wanted, kind=purpose, customer_id=customer, limit=limit)
    )
    if as_json:
        for row in rows:
            say_json(row)
        say_cut(len(rows), total, as_json=True)
        return
    if not rows:
        say(f"no {wanted + ' ' if wanted else ''}calls")
        return
    show_rows(
        (
            Column("key"),
            Column("call"),
            Column("purpose"),
            Column("status"),
            Column("tries", right=True),
            Column("queued", whole=True),
            Column("last error"),
        ),
        [
            (
                row["call_key"],
                f"{row['method']} {row['path']}",
                row["purpose"],
                row["status"],
                row["attempts"],
                f"{row['queued_at']:%Y-%m-%d %H:%M}",
                row["last_error"],
            )
            for row in rows
        ],
    )
    say_cut(len(rows), total, as_json=False)


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
        refuse("calls requeue", "give keys or --all")
    chosen = None if every else list(keys or ())
    entry = entry_for("calls requeue", filter=keys_or_all(chosen, purpose=purpose, limit=limit))
    done = _with_calls(
        "calls requeue", lambda calls: calls.requeue(keys=chosen, kind=purpose, limit=limit, entry=entry)
    )
    for key in done:
        say(key)
    missing = sorted(set(chosen or ()) - set(done))
    note(f"{len(done)} requeued")
    if missing:
        fail("calls requeue", f"not a failed call: {', '.join(missing)}")


def _with_calls(command: str, work: Callable[[Calls], Awaitable[T]]) -> T:
    settings = database_or_exit(command)

    async def go() -> T:
        calls = await Calls.connect(settings.database_url, claimer="operator", pool_size=1, application="billing-ops")
        try:
            return await work(calls)
        finally:
            await calls.close()

    return run_or_exit(command, go)
