"""Read-only queries with a limit on their time and number, and panels that fail one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.errors import LogUnavailable, ServiceUnavailable, StoreRefused, StoreUnavailable
from sinks.postgres.failures import classified
from sinks.postgres.pool import SessionTimeouts, make_engine

log = structlog.get_logger(__name__)

T = TypeVar("T")

STATEMENT_S = 3.0
PANEL_S = 6.0
"""Seconds after which a panel shows that it has no answer. Longer than a statement may take."""

_AT_ONCE = 8

FAILURES = (StoreUnavailable, StoreRefused, LogUnavailable, ServiceUnavailable, TimeoutError)
"""What makes one panel fail and leaves the others."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The reason why a panel has no figures. Templates show it with a link to the runbook; JSON as `error`."""

    error: str


class Reads:
    """Runs queries in read-only transactions, at most eight at once. A statement may take three seconds."""

    def __init__(self, url: SecretStr) -> None:
        bounds = SessionTimeouts(statement_s=STATEMENT_S, lock_s=1.0, idle_in_transaction_s=10.0)
        self._engine = make_engine(url, application="billing-console", bounds=bounds)
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def ask(self, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Returns the query's result. Raises StoreUnavailable, also if a statement takes too long."""
        async with self._free:
            with classified():
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                    return await query(connection)


async def panels(named: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
    """Awaits all panels together. The value of a panel that failed is `Failed`. A bug is raised."""
    found = await asyncio.gather(*(_panel(name, work) for name, work in named.items()))
    return dict(zip(named, found, strict=True))


async def _panel(name: str, work: Awaitable[T]) -> T | Failed:
    try:
        async with asyncio.timeout(PANEL_S):
            return await work
    except FAILURES as error:
        log.warning("console.panel_failed", action="console.panel_failed", panel=name, error=str(error))
        return Failed(str(error) or f"no answer within {PANEL_S:.0f} s")
