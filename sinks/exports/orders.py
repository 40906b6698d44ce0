"""Between the worker's transaction and the exporter: the rows of `billing.exports`, one state machine.

    queued ──claim──▶ working ──▶ done ──its time is over──▶ expired ──▶ deleted
      ▲                 │  │                                   ▲
      └──── later ──────┘  └────▶ failed          erasure ─────┘

`next_attempt_at` is when something is to be done about the row: make it, take over a claim that ran out, delete it. A
claim is told apart by `claimed_by` and `attempts`: whoever lost it changes nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import asyncpg
from pydantic import SecretStr

from schemas.export import ExportStatus, StoredExport
from sinks.exports.storage import new_name
from sinks.postgres.failures import classified
from sinks.postgres.pool import CONNECT_TIMEOUT_S, SessionTimeouts, dsn

CLAIM = timedelta(minutes=20)
"""Twice what an exporter gives itself, so that a living one keeps its claim."""

_LONGEST_ERROR = 500

# The name of an archive is kept from its first claim on, so that the next try replaces what a crash left behind.
_CLAIM = """
WITH due AS (
    SELECT export_key, status IN ('queued', 'working') AND expires_at > $1 AS is_wanted FROM billing.exports
    WHERE status IN ('queued', 'working', 'done', 'expired') AND next_attempt_at <= $1
    ORDER BY next_attempt_at, export_key LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE billing.exports e
SET status = CASE WHEN due.is_wanted THEN 'working' ELSE 'expired' END,
    location = CASE WHEN due.is_wanted THEN coalesce(e.location, $4) ELSE e.location END,
    claimed_by = $2, attempts = e.attempts + 1, next_attempt_at = $3
FROM due WHERE e.export_key = due.export_key
RETURNING e.export_key, e.account, e.customer_id, e.organization_id, e.status, e.attempts, e.location
"""


def _ours(assignments: str) -> str:
    """One statement that settles a claim, if it is still ours: $1 key, $2 claimer, $3 attempts, $4 status."""
    return (
        f"UPDATE billing.exports SET claimed_by = NULL, {assignments} "  # noqa: S608  # the constants below
        "WHERE export_key = $1 AND claimed_by = $2 AND attempts = $3 AND status = $4"
    )


_DONE = _ours(
    "status = 'done', done_at = $5, bytes = $6, sha256 = $7, next_attempt_at = expires_at, attempts = 0, "
    "last_error = NULL"
)
_LATER = _ours("next_attempt_at = $5, last_error = $6")
_FAILED = _ours("status = 'failed', location = NULL, last_error = $5")
_DELETED = _ours("status = 'deleted', location = NULL, bytes = NULL, sha256 = NULL, last_error = NULL")
_FIND = """
SELECT export_key AS key, status, expires_at, done_at, location, bytes AS size
FROM billing.exports WHERE export_key = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOrder:
    """One claimed row: `working`, an archive to make, or `expired`, one to delete."""

    key: str
    account: str
    customer_id: str
    organization_id: str
    status: ExportStatus
    attempts: int
    location: str | None


class ExportOrders:
    """The table as one process sees it. Every method raises StoreUnavailable when Postgres does not answer."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], claimer: str) -> None:
        self.pool = pool
        self._claimer = claimer

    @classmethod
    async def connect(cls, url: SecretStr, *, claimer: str, pool_size: int = 2, application: str) -> Self:
        """Connects when first needed. Raises InvalidSettings."""
        bounds = SessionTimeouts()
        with classified():
            pool = await asyncpg.create_pool(
                dsn(url),
                min_size=0,
                max_size=pool_size,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=bounds.client_s,
                server_settings=bounds.server_settings(application),
            )
        return cls(pool, claimer)

    async def close(self) -> None:
        await self.pool.close()

    async def claim(self, now: datetime) -> ExportOrder | None:
        """The longest-waiting order that is due, ours until the claim runs out; it counts as a try from here on."""
        with classified():
            row = await self.pool.fetchrow(_CLAIM, now, self._claimer, now + CLAIM, new_name())
        if row is None:
            return None
        values = dict(row)
        return ExportOrder(key=values.pop("export_key"), status=ExportStatus(values.pop("status")), **values)

    async def done(self, order: ExportOrder, now: datetime, size: int, sha256: str) -> bool:
        """False when the claim was lost, or the customer was erased meanwhile: then the archive must not stay."""
        return await self._settle(_DONE, order, now, size, sha256)

    async def later(self, order: ExportOrder, at: datetime, error: str) -> bool:
        """Again then; the try counts."""
        return await self._settle(_LATER, order, at, error[:_LONGEST_ERROR])

    async def fail(self, order: ExportOrder, error: str) -> bool:
        """Given up; its archive must be gone by now."""
        return await self._settle(_FAILED, order, error[:_LONGEST_ERROR])

    async def deleted(self, order: ExportOrder) -> bool:
        """Its archive is gone."""
        return await self._settle(_DELETED, order)

    async def find(self, export_key: str) -> StoredExport | None:
        """What is known of it now."""
        with classified():
            row = await self.pool.fetchrow(_FIND, export_key)
        if row is None:
            return None
        values = dict(row)
        return StoredExport(status=ExportStatus(values.pop("status")), **values)

    async def _settle(self, statement: str, order: ExportOrder, *values: object) -> bool:
        with classified():
            done = await self.pool.execute(statement, order.key, self._claimer, order.attempts, order.status, *values)
        return str(done) == "UPDATE 1"
