"""Reads the rows of the old system, from a CSV file or a table of any Postgres, in constant memory."""

from __future__ import annotations

import csv
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import SecretStr

from schemas.errors import BillingError
from sinks.postgres.failures import classified
from sinks.postgres.pool import connect

Row = Mapping[str, str | None]

AT_ONCE = 1000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_LONGEST = 10_000
"""Characters of one value; a longer one is no state of a customer."""


class SourceUnreadable(BillingError):
    """The file or the table cannot be read, or has no such column. The message says which."""


async def of_csv(path: Path, columns: Sequence[str]) -> AsyncIterator[list[Row]]:
    """Yields the rows of a CSV file with a header, some at a time, with these columns. Raises SourceUnreadable."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            _check(str(path), columns, lines.fieldnames or ())
            while batch := _batch(lines, columns):
                yield batch
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceUnreadable(f"{path}: {error}") from None


def _batch(lines: Iterator[Mapping[str, str | None]], columns: Sequence[str]) -> list[Row]:
    found: list[Row] = []
    for line in lines:
        found.append({name: _cut(line.get(name)) for name in columns})
        if len(found) == AT_ONCE:
            break
    return found


async def of_table(url: SecretStr, table: str, columns: Sequence[str]) -> AsyncIterator[list[Row]]:
    """Yields the rows of `schema.table`, or of `table` in schema public, some at a time.

    Raises SourceUnreadable, StoreUnavailable.
    """
    parts = table.split(".") if "." in table else ["public", table]
    if len(parts) > 2 or not all(_NAME.fullmatch(name) for name in (*parts, *columns)):
        raise SourceUnreadable(f"{table}: not the name of a table, or not names of columns: {', '.join(columns)}")
    named = ".".join(f'"{name}"' for name in parts)
    session = await connect(url, application="billing-shadow", own_session=True)
    try:
        with classified():
            async with session.transaction(readonly=True):
                if await session.fetchval("SELECT to_regclass($1)", named) is None:
                    raise SourceUnreadable(f"there is no table {table}")
                present = await session.fetch(
                    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0", named
                )
                _check(table, columns, [row["attname"] for row in present])
                listed = ", ".join(f'"{name}"' for name in columns)
                cursor = await session.cursor(f"SELECT {listed} FROM {named}")  # noqa: S608 - quoted, checked names
                while rows := await cursor.fetch(AT_ONCE):
                    yield [{name: _text(row[name]) for name in columns} for row in rows]
    finally:
        session.terminate()


def _check(source: str, columns: Sequence[str], present: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in present]:
        raise SourceUnreadable(f"{source} has no column {', '.join(missing)}; it has {', '.join(present)}")


def _text(value: object) -> str | None:
    if value is None:
        return None
    return _cut(value.isoformat() if isinstance(value, datetime) else str(value))


def _cut(value: str | None) -> str | None:
    return None if value is None else value[:_LONGEST].replace("\0", "")
