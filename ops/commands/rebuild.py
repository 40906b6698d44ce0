"""`billing rebuild`: applies the whole log to an empty database, for comparison with the live one."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ops.commands.terminal import EXIT_INVALID_SETTINGS, settings_and_config
from ops.commands.times import moment_of
from recovery.rebuild import runs
from recovery.rebuild.rebuild import Rebuilt, run, target_of
from schemas.errors import BillingError
from schemas.settings import InvalidSettings

EXIT_TROUBLE = 1


def rebuild(
    into: Annotated[
        str,
        typer.Option(
            envvar="BILLING_REBUILD_URL",
            metavar="DSN",
            help="An empty database. Put a password into the variable: other users can read the command line.",
        ),
    ],
    until: Annotated[str, typer.Option(help="Only records before this time: 24h (ago), or ISO 8601 in UTC.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Apply the whole log to an empty database with the rules of this version. Then run `billing diff`.

    Example: createdb rehearsal && billing rebuild --into postgresql://billing@127.0.0.1/rehearsal

    It sends nothing: mails, calls and exports get the status `suppressed`, timers do not fire, and dead letters are not
    published again. It reports records that retention has removed.

    Exits 1 on an error or if the database is not empty, 2 if a setting is invalid.
    """
    settings, config = settings_and_config()
    try:
        moment = moment_of(until, datetime.now(UTC)) if until else None
        target = target_of(into, settings)
    except (ValueError, InvalidSettings) as error:
        typer.echo(f"billing rebuild: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    console = Console(stderr=True)
    try:
        with Progress(
            TextColumn("records"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
            disable=not sys.stderr.isatty(),
        ) as bar:  # fmt: skip
            task = bar.add_task("records", total=None)
            rebuilt = asyncio.run(
                run(settings, config, target, until=moment, say=lambda n, of: bar.update(task, completed=n, total=of))
            )
    except (BillingError, runs.NotEmpty) as error:
        typer.echo(f"billing rebuild: {error}", err=True)
        raise typer.Exit(EXIT_TROUBLE) from None
    _show(rebuilt, as_json=as_json)


def _show(rebuilt: Rebuilt, *, as_json: bool) -> None:
    if as_json:
        found = asdict(rebuilt) | {"removed": rebuilt.removed}
        typer.echo(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS))
        return
    rate = rebuilt.records / rebuilt.seconds if rebuilt.seconds else 0.0
    typer.echo(f"{rebuilt.records} records of {rebuilt.topic} in {rebuilt.seconds:.1f} s ({rate:.0f}/s)")
    for outcome, count in sorted(rebuilt.outcomes.items()):
        typer.echo(f"  {outcome:<10} {count}")
    if not rebuilt.removed:
        typer.echo("complete: retention has removed no records")
    for partition, count in rebuilt.removed.items():
        typer.echo(f"partition {partition}: retention has removed the first {count} offsets")
