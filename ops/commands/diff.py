"""`billing diff`: compares the live database with one that was rebuilt from the log. They should be equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from ops.commands.acting import entry_for
from ops.commands.terminal import Column, database_or_exit, exits, note, run_or_exit, say, say_json, show_rows
from ops.runtime.exit_codes import ExitCode
from recovery.rebuild.comparison import DatabaseDiff, NotRebuilt, run
from schemas.database_url import DatabaseUrl
from schemas.errors import StoreRefused, StoreUnavailable
from sinks.postgres.console_actions import ConsoleActions

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
    waiting) are counted separately. The console shows when it last ran and how many rows differed. Exits 0 if all other
    rows are equal, 1 if not or if the database was not rebuilt, 2 if a setting is invalid, 3 if a database does not
    answer.
    """
    settings = database_or_exit("diff")
    with exits("diff"):
        live = DatabaseUrl.of(settings.database_url)
        other = live.for_other(SecretStr(with_))
    entry = entry_for("diff")

    async def compared() -> DatabaseDiff:
        found = await run(live, other)
        try:
            await ConsoleActions(live, application="billing-diff").note(replace(entry, count=found.different.total()))
        except (StoreUnavailable, StoreRefused) as error:
            note(f"billing diff: the result is not in the audit log, so the console does not show it: {error}")
        return found

    found = run_or_exit("diff", compared, no=(NotRebuilt,))
    if as_json:
        say_json(_plain(found))
    else:
        _show(found)
    raise typer.Exit(ExitCode.DONE if found.is_equal else ExitCode.NO)


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
    columns = (Column("table"), Column("rows", right=True), Column("different", right=True))
    show_rows(columns, [(name, count, found.different[name]) for name, count in found.rows.items()])
    for reason, counts in found.excused.items():
        rows = ", ".join(f"{count} {name}" for name, count in counts.items())
        say(f"not compared, {reason}: {rows}")
    for partition, count in found.removed.items():
        say(f"partition {partition}: retention had removed the first {count} offsets")
    for one in found.differences[:_SHOWN]:
        say(_line(one.table, one.key, one.only_in, one.columns))
    if (more := found.different.total() - _SHOWN) > 0:
        say(f"and {more} more (--json lists the first {len(found.differences)})")
    say("equal" if found.is_equal else f"{found.different.total()} rows differ")


def _line(table: str, key: tuple[Any, ...], only_in: str | None, columns: dict[str, tuple[Any, Any]]) -> str:
    difference = (
        f"only in the {only_in} database"
        if only_in
        else ", ".join(f"{n}: {a!s} / {b!s}" for n, (a, b) in columns.items())
    )
    return f"{table} {'/'.join(map(str, key))}: {difference}"
