"""How tests wait: on a condition, with a deadline that a slow machine keeps, never for a fixed time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from local.waiting import TooLate, eventually, wait_until

__all__ = ["TooLate", "eventually", "row_with", "turn_of_the_loop", "wait_until"]


async def turn_of_the_loop() -> None:
    """Returns once the event loop has run what was ready."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()


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
