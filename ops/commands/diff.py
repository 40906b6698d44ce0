"""`billing diff`: compares the live database with one that was rebuilt from the log. They should be equal."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import orjson
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.commands.terminal import EXIT_INVALID_SETTINGS
from recovery.rebuild.comparison import DatabaseDiff, NotRebuilt, run
from schemas.database_url import DatabaseUrl
from schemas.errors import BillingError
from schemas.settings import InvalidSettings, load_settings

EXIT_DIFFERENT = 1
EXIT_UNAVAILABLE = 3

_PIPE_WIDTH = 200
_SHOWN = 20


def diff(
    with_: Annotated[
        str,
        typer.Option(
            "--with", envvar="BILLING_REBUILD_URL", metavar="DSN", help="The database that `billing rebuild` filled."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare every row that is derived from the log with the database that `billing rebuild` filled.

    Example: billing diff --with postgresql://billing@127.0.0.1/rehearsal

    Rows of customers with events that the rebuild could not apply (removed by retention, newer than the rebuild, still
    waiting) are counted separately. Exits 0 if all other rows are equal, 1 if not, 2 if a setting is invalid, 3 if a
    database does not answer or was not rebuilt.
    """
    try:
        live = DatabaseUrl.of(load_settings().database_url)
        found = asyncio.run(run(live, live.for_other(SecretStr(with_))))
    except InvalidSettings as error:
        typer.echo(f"billing diff: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except (BillingError, NotRebuilt) as error:
        typer.echo(f"billing diff: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
    if as_json:
        typer.echo(orjson.dumps(_plain(found)))
    else:
        _show(found)
    raise typer.Exit(0 if found.is_equal else EXIT_DIFFERENT)


def _plain(found: DatabaseDiff) -> dict[str, Any]:
    return {
        "equal": found.is_equal,
        "rows": dict(found.rows),
        "different": dict(found.different),
        "excused": {reason: dict(counts) for reason, counts in found.excused.items()},
        "removed": {str(partition): count for partition, count in found.removed.items()},
        "differences": [
            {
                "table": one.table,
                "key": one.key,
                "only_in": one.only_in,
                "columns": {name: {"live": live, "rebuilt": rebuilt} for name, (live, rebuilt) in one.columns.items()},
            }
            for one in found.differences
        ],
    }


def _show(found: DatabaseDiff) -> None:
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    table = Table("table", "rows", "different")
    for name, count in found.rows.items():
        table.add_row(name, str(count), str(found.different[name]))
    console.print(table)
    for reason, counts in found.excused.items():
        rows = ", ".join(f"{count} {name}" for name, count in counts.items())
        typer.echo(f"not compared, {reason}: {rows}")
    for partition, count in found.removed.items():
        typer.echo(f"partition {partition}: retention had removed the first {count} offsets")
    for one in found.differences[:_SHOWN]:
        console.print(_line(one.table, one.key, one.only_in, one.columns), soft_wrap=True)
    if (more := found.different.total() - _SHOWN) > 0:
        typer.echo(f"and {more} more (--json lists the first {len(found.differences)})")
    typer.echo("equal" if found.is_equal else f"{found.different.total()} rows differ")


def _line(table: str, key: tuple[Any, ...], only_in: str | None, columns: dict[str, tuple[Any, Any]]) -> Text:
    difference = (
        f"only in the {only_in} database"
        if only_in
        else ", ".join(f"{n}: {a!s} / {b!s}" for n, (a, b) in columns.items())
    )
    line = f"{table} {'/'.join(map(str, key))}: {difference}"
    return Text("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line))
