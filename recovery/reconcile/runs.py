"""Stores the progress of reconciliation runs, and looks up Stripe's events in the ledger.

All queries use one database session. It also holds the lock that allows only one run at a time: if the process dies,
the lock is released, and the next run continues at the stored cursor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from sinks.postgres import tables
from sinks.postgres.failures import classified
from sinks.postgres.imports import covered_until
from sinks.postgres.pool import connect

_LOCK_ID = 0x7265636F6E63  # "reconc"
_TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
_KNOWN = "SELECT event_id FROM billing.events WHERE event_id = ANY($1::text[])"
_COLUMNS = "run_id, account, scope, started_at, ended_at, window_from, window_until, cursor"
_NEWEST = f"""
SELECT {_COLUMNS} FROM billing.reconciliations
WHERE account = $1 AND scope = $2 AND (ended_at IS NOT NULL) = $3 ORDER BY cursor DESC, run_id DESC LIMIT 1
"""  # noqa: S608  # only constants
_BEGIN = f"""
INSERT INTO billing.reconciliations (account, scope, started_at, window_from, window_until, cursor)
VALUES ($1, $2, $3, $4, $5, $4) RETURNING {_COLUMNS}
"""  # noqa: S608  # as above
_ADVANCE = """
UPDATE billing.reconciliations SET cursor = $2, window_until = $3, counts = $4, last_error = NULL WHERE run_id = $1
"""
_END = "UPDATE billing.reconciliations SET ended_at = $2 WHERE run_id = $1"
_FAILED = "UPDATE billing.reconciliations SET last_error = $2 WHERE run_id = $1"


@dataclass(frozen=True, slots=True)
class ReconcileRun:
    """One row of `billing.reconciliations`. Times are UTC."""

    run_id: int
    account: str
    scope: str
    started_at: datetime
    ended_at: datetime | None
    window_from: datetime
    window_until: datetime
    cursor: datetime


class Runs:
    """The table of runs. Every method raises StoreUnavailable if Postgres does not answer. Not for concurrent use."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, url: SecretStr) -> Runs:
        """Raises StoreUnavailable, InvalidSettings."""
        return cls(await connect(url, application="billing-reconcile", own_session=True))

    async def take_turn(self) -> bool:
        """Try to get the lock, which is held until `close`. Returns False if another run holds it."""
        return bool(await self._value(_TRY_LOCK, _LOCK_ID))

    async def known(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that are in the ledger, whatever their outcome."""
        with classified():
            return {record["event_id"] for record in await self._connection.fetch(_KNOWN, list(event_ids))}

    async def covered_until(self, account: str) -> datetime | None:
        """Return the time before which events need not have arrived: an import read what they changed."""
        return await covered_until(self._connection, account)

    async def newest(self, account: str, scope: str, *, ended: bool) -> ReconcileRun | None:
        """Return the run with the latest cursor among the completed (`ended`) or the other runs, or None."""
        with classified():
            found = await self._connection.fetchrow(_NEWEST, account, scope, ended)
        return ReconcileRun(**dict(found)) if found is not None else None

    async def begin(self, account: str, scope: str, now: datetime, start: datetime, end: datetime) -> ReconcileRun:
        with classified():
            found = await self._connection.fetchrow(_BEGIN, account, scope, now, start, end)
        if found is None:
            raise LookupError("INSERT … RETURNING gave no row")
        return ReconcileRun(**dict(found))

    async def advance(self, run: ReconcileRun, cursor: datetime, until: datetime, counts: Mapping[str, Any]) -> None:
        """Record that all events created before `cursor` have been processed."""
        await self._execute(_ADVANCE, run.run_id, cursor, until, orjson.dumps(dict(counts)).decode())

    async def end(self, run: ReconcileRun, now: datetime) -> None:
        await self._execute(_END, run.run_id, now)

    async def fail(self, run: ReconcileRun, reason: str) -> None:
        """Record the reason of a failure. The run stays open and can be resumed."""
        await self._execute(_FAILED, run.run_id, reason)

    def close(self) -> None:
        """End the session at once, which releases the lock."""
        self._connection.terminate()

    async def _value(self, query: str, *arguments: object) -> Any:
        with classified():
            return await self._connection.fetchval(query, *arguments)

    async def _execute(self, query: str, *arguments: object) -> None:
        with classified():
            await self._connection.execute(query, *arguments)


async def awaited_since(connection: AsyncConnection) -> datetime | None:
    """Return since when a first run is due (UTC): the time at which `billing migrate` gave the database its id."""
    found: datetime | None = await connection.scalar(select(func.min(tables.database_identity.c.created_at)))
    return found


async def last_end(connection: AsyncConnection) -> datetime | None:
    """Return when the last run over all events of the platform's own account completed (UTC), or None."""
    runs = tables.reconciliations
    asked = select(func.max(runs.c.ended_at)).where(runs.c.account == "", runs.c.scope == "")
    found: datetime | None = (await connection.execute(asked)).scalar()
    return found
