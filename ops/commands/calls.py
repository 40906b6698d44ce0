"""`billing calls ls|requeue`: lists the calls to Stripe in the outbox, and queues failed ones again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ops.commands.outbox_rows import OutboxCommand
from ops.commands.terminal import Column
from ops.commands.times import minute_text
from sinks.stripe_calls.calls import Calls

app = typer.Typer(help="List the calls to Stripe's API, and requeue failed ones.", no_args_is_help=True)

CALLS = OutboxCommand(
    claims=Calls,
    noun="call",
    columns=(
        Column("key"),
        Column("call"),
        Column("purpose"),
        Column("status"),
        Column("tries", right=True),
        Column("queued", whole=True),
        Column("last error"),
    ),
    cells=lambda row: (
        row["call_key"],
        f"{row['method']} {row['path']}",
        row["purpose"],
        row["status"],
        row["attempts"],
        minute_text(row["queued_at"]),
        row["last_error"],
    ),
)


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
    rows, total = CALLS.ask(
        "calls ls", lambda calls: calls.listed(status=wanted, kind=purpose, customer_id=customer, limit=limit)
    )
    CALLS.show(rows, total, wanted=wanted, as_json=as_json)


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
    CALLS.change(
        "calls requeue",
        keys,
        every,
        lambda calls, chosen, entry: calls.requeue(keys=chosen, kind=purpose, limit=limit, entry=entry),
        purpose=purpose,
        limit=limit,
    )
