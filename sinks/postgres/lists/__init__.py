"""Lists and figures for operators: pages of rows by keyset, and counts that an index answers.

Rows are plain dicts. Times are UTC, amounts are in minor units. No query counts or sorts the whole ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

Found = dict[str, Any]

PAGE = 50
"""Rows of a page."""

MOST_LOOKED_AT = 200_000
"""Rows of a table that one request looks at. A search that stops there says so."""


async def rows(connection: AsyncConnection, statement: str, values: Mapping[str, Any] | None = None) -> list[Found]:
    """Returns the rows of a statement with named parameters."""
    result = await connection.execute(text(statement), values or {})
    return [{str(name): value for name, value in row.items()} for row in result.mappings()]


async def row(connection: AsyncConnection, statement: str, values: Mapping[str, Any] | None = None) -> Found | None:
    """Returns the first row of a statement, None if there is none."""
    found = await rows(connection, statement, values)
    return found[0] if found else None
