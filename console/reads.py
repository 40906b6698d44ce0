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

KEPT_S, STALE_S, FAILED_S = 30.0, 60.0, 5.0
"""Seconds for which a query of a whole table is not repeated, for which its last result is then still shown while it is
repeated, and for which one that failed is not tried again."""

SOON_S = 5.0
"""The first two of these for what a person is about to repair, such as dead letters."""

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
    renewal: asyncio.Task[None] | None = None

    def is_stale(self, now: float, stale_s: float) -> bool:
        """Whether there is a result that may be shown although it has to be renewed."""
        return self.error is None and 0.0 < self.until <= now < self.until + stale_s


class Reads:
    """Runs queries in read-only transactions, at most eight at once. A statement may take three seconds."""

    def __init__(self, url: SecretStr) -> None:
        bounds = SessionTimeouts(statement_s=STATEMENT_S, lock_s=1.0, idle_in_transaction_s=10.0)
        self._engine = make_engine(url, application="billing-console", bounds=bounds, keeps=_KEPT_CONNECTIONS)
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._kept: dict[str, Kept] = {}
        self._changes = 0

    def expire(self) -> None:
        """Makes each next page wait for new results: a person has just changed something."""
        self._changes += 1
        for kept in self._kept.values():
            kept.until = 0.0

    async def close(self) -> None:
        """Closes the connections."""
        renewals = [kept.renewal for kept in self._kept.values() if kept.renewal is not None]
        for renewal in renewals:
            renewal.cancel()
        await asyncio.gather(*renewals, return_exceptions=True)
        await self._engine.dispose()

    async def ask(self, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Returns the query's result. Raises StoreUnavailable, also if a statement takes too long."""
        async with self._free:
            with classified():
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                    return await query(connection)

    async def kept(
        self,
        name: str,
        query: Callable[[AsyncConnection], Awaitable[T]],
        *,
        lasts_s: float = KEPT_S,
        stale_s: float = STALE_S,
    ) -> T:
        """Returns the result of a query that reads many rows. Raises what `ask` raises.

        It is at most `lasts_s` old, or up to `stale_s` more for the first page after that, which does not wait for the
        next result. Pages that ask at the same time cause one query. `name` identifies the query.
        """
        kept = self._kept.setdefault(name, Kept())
        if kept.is_stale(time.monotonic(), stale_s):
            if kept.renewal is None or kept.renewal.done():
                kept.renewal = asyncio.create_task(self._renew(name, kept, query, lasts_s))
                kept.renewal.add_done_callback(_reported)
        else:
            await self._renew(name, kept, query, lasts_s)
        if kept.error is not None:
            raise kept.error
        value: T = kept.value
        return value

    async def _renew(
        self, name: str, kept: Kept, query: Callable[[AsyncConnection], Awaitable[Any]], lasts_s: float
    ) -> None:
        """Asks again unless the result is new enough. A failure is kept, too; a bug ends what is kept."""
        async with kept.turn:
            if kept.until > time.monotonic():
                return
            changes = self._changes
            try:
                kept.value, kept.error = await self.ask(query), None
                # What was changed meanwhile may not be in the result.
                kept.until = time.monotonic() + lasts_s if changes == self._changes else 0.0
            except FAILURES as error:
                kept.error, kept.until = error, time.monotonic() + FAILED_S
            except BaseException:
                self._kept.pop(name, None)  # the next page asks itself, and shows the bug
                raise


def _reported(renewal: asyncio.Task[None]) -> None:
    """Logs the bug that ended a renewal: no page waits for it."""
    if not renewal.cancelled() and (bug := renewal.exception()) is not None:
        log.error("console.bug", action="console.bug", exc_info=bug)


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
