"""`billing exports ls|requeue`: lists the orders of export archives, and queues failed ones again (B6)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from schemas.export import ExportStatus
from sinks.exports.orders import ExportOrders

app = typer.Typer(help="List the orders of export archives, and requeue failed ones.", no_args_is_help=True)

T = TypeVar("T")


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
    rows, total = _with_orders(
        "exports ls", lambda orders: orders.listed(status=wanted, customer_id=customer, limit=limit)
    )
    if as_json:
        for row in rows:
            say_json(row)
        say_cut(len(rows), total, as_json=True)
        return
    if not rows:
        say(f"no {wanted + ' ' if wanted else ''}exports")
        return
    show_rows(
        (
            Column("key"),
            Column("customer"),
            Column("status"),
            Column("tries", right=True),
            Column("ordered", whole=True),
            Column("kept until", whole=True),
            Column("last error"),
        ),
        [
            (
                row["export_key"],
                row["customer_id"],
                row["status"],
                row["attempts"],
                f"{row['requested_at']:%Y-%m-%d %H:%M}",
                f"{row['expires_at']:%Y-%m-%d %H:%M}",
                row["last_error"],
            )
            for row in rows
        ],
    )
    say_cut(len(rows), total, as_json=False)


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
    if bool(keys) == every:
        refuse("exports requeue", "give keys or --all")
    chosen = None if every else list(keys or ())
    entry = entry_for("exports requeue", filter=keys_or_all(chosen, limit=limit))
    done = _with_orders("exports requeue", lambda orders: orders.requeue(keys=chosen, limit=limit, entry=entry))
    for key in done:
        say(key)
    missing = sorted(set(chosen or ()) - set(done))
    note(f"{len(done)} requeued")
    if missing:
        fail("exports requeue", f"not a failed export: {', '.join(missing)}")


def _with_orders(command: str, work: Callable[[ExportOrders], Awaitable[T]]) -> T:
    settings = database_or_exit(command)

    async def go() -> T:
        orders = await ExportOrders.connect(
            settings.database_url, claimer="operator", pool_size=1, application="billing-ops"
        )
        try:
            return await work(orders)
        finally:
            await orders.close()

    return run_or_exit(command, go)
