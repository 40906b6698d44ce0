"""Releases what a lane has claimed and not tried (loop.py), so that it does not wait for the end of its claim."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import structlog

from schemas.errors import StoreUnavailable
from sinks.outbox.claims import Claimed, Claims

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Claimed)

_AT_ONCE = timedelta(0)


async def give_back(claims: Claims[R], rows: list[R]) -> None:
    """Release the rows, and remove each that is released. Raises StoreUnavailable."""
    while rows:
        await claims.give_back(rows[0], _AT_ONCE, None)
        del rows[0]


async def give_back_all(claims: Claims[R], lanes: Sequence[list[R]], *, within_s: float, action: str) -> None:
    """Release the rows of all lanes at their end. What is left after `within_s` seconds is logged and stays claimed."""
    try:
        async with asyncio.timeout(within_s):
            for rows in lanes:
                await give_back(claims, rows)
    except (StoreUnavailable, TimeoutError) as error:
        left, reason = sum(map(len, lanes)), f"{type(error).__name__}: {error}"
        log.warning("rows stay claimed until their claims expire", action=action, rows=left, error=reason)
