"""`billing refusals`: shows the newest webhook requests that the gateway refused."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ops.commands.terminal import Column, refuse, run_or_exit, say, say_json, show_rows
from ops.runtime.exit_codes import ExitCode
from ops.runtime.ops_pages import pages

_VARIABLE = "BILLING_GATEWAY_OPS_URL"
_ASKED = 8
"""Several gateway processes share a port, and each answers for itself."""
_COLUMNS = ("at", "endpoint", "outcome", "reason", "peer", "event_id", "type")


def refusals(
    event_id: Annotated[str, typer.Argument(help="Only those of this event. Default: all.")] = "",
    url: Annotated[
        list[str] | None, typer.Option("--url", help=f"A gateway's operations port. Repeatable. Default: {_VARIABLE}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the newest webhook requests that the gateway refused, with the reason and, if it was signed, the event.

    Example: billing refusals evt_1abc --url http://127.0.0.1:9101

    A gateway keeps 200 with a valid signature and 200 without one until it is restarted; its log has more.

    Exits 0, 1 if there is none, 2 without an address, 3 if the gateway does not answer.
    """
    urls = url or [part for part in os.environ.get(_VARIABLE, "").split(",") if part]
    if not urls:
        refuse("refusals", f"give --url, the gateway's operations port, or set {_VARIABLE}")

    async def ask() -> list[Any]:
        return [page for one in urls for page in await pages(f"{one.rstrip('/')}/refusals", _ASKED)]

    found = run_or_exit("refusals", ask)
    distinct = {tuple(sorted(row.items(), key=str)): row for page in found for row in page["refusals"]}
    rows = sorted(distinct.values(), key=lambda row: str(row["at"]), reverse=True)
    rows = [row for row in rows if not event_id or row.get("event_id") == event_id]
    if as_json:
        say_json(rows)
    elif rows:
        columns = [Column(name, whole=name == "at") for name in _COLUMNS]
        show_rows(columns, [[row.get(name) for name in _COLUMNS] for row in rows])
    if not rows:
        if not as_json:
            say("none")
        raise typer.Exit(ExitCode.NO)
