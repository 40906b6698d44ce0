"""Claims and settles the rows of `billing.exports`. The worker queues orders, the exporter claims them.

    queued ──claim──▶ working ──▶ done ──expires_at──▶ expired ──▶ deleted
                        │                                 ▲
                        └───────▶ failed    erasure ──────┘

`next_attempt_at` is when the row is due: to make the archive, to take over an expired claim, or to delete the archive.
A failed try keeps the status and moves `next_attempt_at`. A claim is identified by `claimed_by` and `attempts`: an
exporter that lost its claim can no longer change the row.
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
from sinks.postgres.pool import make_pool

CLAIM = timedelta(minutes=20)
"""Duration of a claim: twice the exporter's own time limit for an order, so a live exporter keeps its claim."""

_LONGEST_ERROR = 500

# An order keeps the archive name of its first claim, so the next try overwrites a file left by a crash.
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


def _settlement(assignments: str) -> str:
    """A statement that settles a claim if it is still held: $1 key, $2 claimer, $3 attempts, $4 status."""
    return (
        f"UPDATE billing.exports SET claimed_by = NULL, {assignments} "  # noqa: S608  # only the constants below
        "WHERE export_key = $1 AND claimed_by = $2 AND attempts = $3 AND status = $4"
    )


_DONE = _settlement(
    "status = 'done', done_at = $5, bytes = $6, sha256 = $7, next_attempt_at = expires_at, attempts = 0, "
    "last_error = NULL"
)
_LATER = _settlement("next_attempt_at = $5, last_error = $6")
_FAILED = _settlement("status = 'failed', location = NULL, last_error = $5")
_DELETED = _settlement("status = 'deleted', location = NULL, bytes = NULL, sha256 = NULL, last_error = NULL")
_FIND = """
SELECT export_key AS key, status, expires_at, done_at, location, bytes AS size
FROM billing.exports WHERE export_key = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOrder:
    """A claimed row. Status `working`: make the archive. Status `expired`: delete it."""

    key: str
    account: str
    customer_id: str
    organization_id: str
    status: ExportStatus
    attempts: int
    location: str | None


class ExportOrders:
    """The export orders as one process uses them. Every method raises StoreUnavailable if Postgres does not answer."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], claimer: str) -> None:
        self.pool = pool
        self._claimer = claimer

    @classmethod
    async def connect(cls, url: SecretStr, *, claimer: str, pool_size: int = 2, application: str) -> Self:
        """Create the pool; it connects on first use. `claimer` is unique to the process. Raises InvalidSettings."""
        return cls(await make_pool(url, application=application, max_size=pool_size), claimer)

    async def close(self) -> None:
        await self.pool.close()

    async def claim(self, now: datetime) -> ExportOrder | None:
        """Claim the order that has been due the longest, until `now + CLAIM`. The claim counts as a try."""
        with classified():
            row = await self.pool.fetchrow(_CLAIM, now, self._claimer, now + CLAIM, new_name())
        if row is None:
            return None
        values = dict(row)
        return ExportOrder(key=values.pop("export_key"), status=ExportStatus(values.pop("status")), **values)

    async def done(self, order: ExportOrder, now: datetime, size: int, sha256: str) -> bool:
        """Return False if the claim was lost or the customer has been erased; the caller then deletes the archive."""
        return await self._settle(_DONE, order, now, size, sha256)

    async def later(self, order: ExportOrder, at: datetime, error: str) -> bool:
        """Retry at `at`. The try counts. Returns False if the claim was lost."""
        return await self._settle(_LATER, order, at, error[:_LONGEST_ERROR])

    async def fail(self, order: ExportOrder, error: str) -> bool:
        """Mark the order as failed. The caller has deleted the archive. Returns False if the claim was lost."""
        return await self._settle(_FAILED, order, error[:_LONGEST_ERROR])

    async def deleted(self, order: ExportOrder) -> bool:
        """Record that the archive was deleted. Returns False if the claim was lost."""
        return await self._settle(_DELETED, order)

    async def find(self, export_key: str) -> StoredExport | None:
        """Return the export's current state, or None if there is no such export."""
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
