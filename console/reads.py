"""Read-only queries with a limit on their time and number, and panels that fail one at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
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

KEPT_S, FAILED_S = 30.0, 5.0
"""Seconds for which a query of a whole table is not repeated, and one that failed is not tried again."""

_AT_ONCE, _KEPT_CONNECTIONS = 8, 4
"""Queries at once, and the connections that stay open between pages."""

FAILURES = (StoreUnavailable, StoreRefused, LogUnavailable, ServiceUnavailable, TimeoutError)
"""What makes one panel fail and leaves the others."""


@dataclass(frozen=True, slots=True)
class PanelFailure:
    """The reason why a panel has no figures. Templates show it with a link to the runbook; JSON as `error`."""

    error: str


@dataclass(slots=True)
class Kept:
    """The result of a query, or why it has none, until a time of the monotonic clock."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: Any = None
    error: Exception | None = None
    until: float = 0.0


class Reads:
    """Runs queries in read-only transactions, at most eight at once. A statement may take three seconds."""

    def __init__(self, url: SecretStr) -> None:
        bounds = SessionTimeouts(statement_s=STATEMENT_S, lock_s=1.0, idle_in_transaction_s=10.0)
        self._engine = make_engine(url, application="billing-console", bounds=bounds, keeps=_KEPT_CONNECTIONS)
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._kept: dict[str, Kept] = {}

    async def close(self) -> None:
        """Closes the connections."""
        await self._engine.dispose()

    async def ask(self, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Returns the query's result. Raises StoreUnavailable, also if a statement takes too long."""
        async with self._free:
            with classified():
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                    return await query(connection)

    async def kept(self, name: str, query: Callable[[AsyncConnection], Awaitable[T]], *, lasts_s: float = KEPT_S) -> T:
        """Returns the result of a query that reads a whole table, at most `lasts_s` old. Raises what `ask` raises.

        Pages that ask at the same time wait for one query. `name` identifies the query.
        """
        kept = self._kept.setdefault(name, Kept())
        async with kept.turn:
            now = time.monotonic()
            if kept.until <= now:
                try:
                    kept.value, kept.error = await self.ask(query), None
                    kept.until = time.monotonic() + lasts_s
                except FAILURES as error:
                    kept.error, kept.until = error, time.monotonic() + FAILED_S
            if kept.error is not None:
                raise kept.error
            value: T = kept.value
            return value


async def panels(named: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
    """Awaits all panels together. The value of a panel that failed is `PanelFailure`. A bug is raised."""
    found = await asyncio.gather(*(_panel(name, work) for name, work in named.items()))
    return dict(zip(named, found, strict=True))


async def _panel(name: str, work: Awaitable[T]) -> T | PanelFailure:
    try:
        async with asyncio.timeout(PANEL_S):
            return await work
    except FAILURES as error:
        log.warning("console.panel_failed", action="console.panel_failed", panel=name, error=str(error))
        return PanelFailure(str(error) or f"no answer within {PANEL_S:.0f} s")
