"""`billing exports ls|requeue|revoke`: lists the orders of export archives, repeats failed ones, ends links (B6)."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.commands.outbox_rows import OutboxCommand
from ops.commands.terminal import Column
from ops.commands.times import minute_text
from schemas.export import ExportStatus
from sinks.exports.orders import ExportOrders

app = typer.Typer(help="List the orders of export archives, requeue failed ones, and end links.", no_args_is_help=True)

ORDERS = OutboxCommand(
    claims=ExportOrders,
    noun="export",
    columns=(
        Column("key"),
        Column("customer"),
        Column("status"),
        Column("tries", right=True),
        Column("ordered", whole=True),
        Column("kept until", whole=True),
        Column("last error"),
    ),
    cells=lambda row: (
        row["export_key"],
        row["customer_id"],
        row["status"],
        row["attempts"],
        minute_text(row["requested_at"]),
        minute_text(row["expires_at"]),
        row["last_error"],
    ),
)


@app.command("ls")
def ls(
    status: Annotated[ExportStatus, typer.Option(help="Only orders with this status.")] = ExportStatus.FAILED,
    every: Annotated[bool, typer.Option("--all", help="Orders with any status.")] = False,
    customer: Annotated[str | None, typer.Option(help="Only orders of this customer (cus_…).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List export orders, newest first. By default only failed ones.

    Example: billing exports ls --status queued --json
    """
    wanted = None if every else status.value
    rows, total = ORDERS.ask(
        "exports ls", lambda orders: orders.listed(status=wanted, customer_id=customer, limit=limit)
    )
    ORDERS.show(rows, total, wanted=wanted, as_json=as_json)


@app.command("requeue")
def requeue(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of orders, as listed by `billing exports ls`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All failed orders, oldest first, up to --limit.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="With --all: at most this many.")] = 1000,
) -> None:
    """Queue failed orders again, with a new set of tries. Links that were mailed before work again.

    Example: billing exports requeue --all

    Exits 1 if a given key does not belong to a failed order.
    """
    ORDERS.change(
        "exports requeue",
        keys,
        every,
        lambda orders, chosen, entry: orders.requeue(keys=chosen, limit=limit, entry=entry),
        limit=limit,
    )


@app.command("revoke")
def revoke(
    keys: Annotated[list[str], typer.Argument(help="Keys of orders, as listed by `billing exports ls --status done`.")],
) -> None:
    """End the links to these exports and delete their archives.

    Example: billing exports revoke exp_…

    Exits 1 if a given key has no archive.
    """
    ORDERS.change(
        "exports revoke",
        keys,
        False,
        lambda orders, chosen, entry: orders.revoke(chosen or (), entry=entry),
        changes="done",
    )
