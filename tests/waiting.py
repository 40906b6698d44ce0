"""How tests wait: on a condition, with a deadline that a slow machine keeps, never for a fixed time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from local.waiting import TooLate, eventually, wait_until

__all__ = ["TooLate", "eventually", "row_with", "wait_until"]


async def row_with(read: Callable[[], Awaitable[dict[str, Any]]], **wanted: Any) -> dict[str, Any]:
    """Reads a row until it has these values, and returns it. Raises TooLate, naming the values that it has."""
    row: dict[str, Any] = {}

    async def has_them() -> bool:
        row.clear()
        row.update(await read())
        return all(row[name] == value for name, value in wanted.items())

    try:
        await eventually(has_them, f"a row with {wanted}")
    except TooLate as error:
        raise TooLate(f"{error}; it has { {name: row.get(name) for name in wanted} }") from None
    return row
