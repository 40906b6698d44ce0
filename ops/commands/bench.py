"""`billing bench`: measures throughput and CPU cost on this machine, compared with the limit of each component."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from ops.commands.terminal import exits, note, refuse, say_text


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="commands, gateway, worker, whole, mails, cost, memory, recovery, rivals. Default: all of these. "
            "goals: all that have a goal, with the table of goals. years: a database with years of data. console: its "
            "pages there. price: what its data costs the worker."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of rounds; the median is reported.")] = 3,
    shrink: Annotated[
        int, typer.Option("--shrink", min=1, help="Divide all sizes by this number, for a quick run.")
    ] = 1,
    ledger: Annotated[
        int | None, typer.Option("--ledger", min=1000, help="Part years: number of events in the ledger (1 million).")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="JSON file for the figures.")] = Path("out/bench.json"),
) -> None:
    """Measure throughput and CPU cost of gateway and worker, compared with the limit of each component.

    Example: billing bench worker --shrink 10

    Starts its own Kafka and PostgreSQL; needs `billing-stream[local]`. Exits 1 if a measured process fails, 2 if a
    part does not exist or a package is missing.
    """
    try:
        from bench.place import BenchServers
        from bench.posting import NotAccepted
        from bench.processes import RunFailed
        from bench.run import BY_DEFAULT, BenchPart, Size, measure
        from local.waiting import TooLate
    except ModuleNotFoundError as error:
        refuse("bench", f"needs 'billing-stream[local]': {error}")
    try:
        chosen = [BenchPart(part) for part in parts or BY_DEFAULT]
    except ValueError as error:
        refuse("bench", f"{error}; valid parts are {', '.join(BenchPart)}")
    size = Size().shrunk(shrink)
    if ledger is not None:
        size = replace(size, ledger=ledger)
    begun = time.monotonic()

    def report(line: str) -> None:
        note(f"{time.monotonic() - begun:7.1f} s  {line}")

    with exits("bench", no=(RunFailed, NotAccepted, TooLate)), BenchServers() as place:
        figures = uvloop.run(measure(place, chosen, rounds, size, report))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures.document(), indent=2) + "\n")
    say_text(figures.table())
    note(f"written to {out}")
