"""`billing bench`: how fast and how dear it is here, beside the limits of its parts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop


def bench(
    parts: Annotated[
        list[str] | None, typer.Argument(help="gateway, worker, whole, cost, memory, recovery; all without any.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds, of which the median counts.")] = 3,
    shrink: Annotated[int, typer.Option("--shrink", min=1, help="Divide all sizes by this, for a quick look.")] = 1,
    out: Annotated[Path, typer.Option("--out", help="Where the figures go as JSON.")] = Path("out/bench.json"),
) -> None:
    """Measure gateway, worker and the whole of them beside their limits, on a Kafka and a PostgreSQL of its own.

    Example: billing bench worker --shrink 10

    Needs `billing-stream[local]`. Exits 1 when a measured process fails.
    """
    try:
        from bench.place import Place
        from bench.posting import NotAccepted
        from bench.processes import RunFailed
        from bench.run import Part, Size, measure
    except ModuleNotFoundError as error:
        typer.echo(f"billing bench: needs 'billing-stream[local]': {error}", err=True)
        raise typer.Exit(2) from None
    try:
        asked = [Part(part) for part in parts or list(Part)]
    except ValueError as error:
        typer.echo(f"billing bench: {error}; there are {', '.join(Part)}", err=True)
        raise typer.Exit(2) from None
    begun = time.monotonic()

    def say(line: str) -> None:
        typer.echo(f"{time.monotonic() - begun:7.1f} s  {line}", err=True)

    try:
        with Place() as place:
            figures = uvloop.run(measure(place, asked, rounds, Size().shrunk(shrink), say))
    except (RunFailed, NotAccepted) as error:
        typer.echo(f"billing bench: {error}", err=True)
        raise typer.Exit(1) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures.document(), indent=2) + "\n")
    typer.echo(figures.table())
    typer.echo(f"\nwritten to {out}", err=True)
