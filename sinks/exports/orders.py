"""Claims and settles the rows of `billing.exports`. The worker queues orders, the exporter claims them.

    queued ──claim──▶ working ──▶ done ──expires_at──▶ expired ──▶ deleted
      ▲                 │ │                               ▲
      └───── retry ─────┘ └──▶ failed     erasure ────────┘

`next_attempt_at` is when the row is due: to make the archive, to take over an expired claim, or to delete the archive.
A failed deletion keeps the status `expired` and moves `next_attempt_at`. The rest is in sinks/outbox/claims.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import asyncpg

from schemas.export import ExportStatus, StoredExport
from sinks.exports.storage import new_name
from sinks.outbox.claims import Claims
from sinks.outbox.statements import Queue
from sinks.postgres import audit_log
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import EXPORTS

CLAIM = timedelta(minutes=20)
"""Duration of a claim: twice the exporter's own time limit for an order, so a live exporter keeps its claim."""

_IS_WANTED = "o.status IN ('queued', 'working') AND o.expires_at > now() + $1::interval"
_REVOKE = """
UPDATE billing.exports SET expires_at = now() + $2::interval, next_attempt_at = now() + $2::interval
WHERE export_key = ANY($1::text[]) AND status = 'done' RETURNING export_key
"""
_FIND = """
SELECT export_key AS key, status, expires_at, done_at, location, bytes AS size
FROM billing.exports WHERE export_key = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOrder:
    """A claimed row. Status `working`: make the archive. Status `expired`: delete it.

    `now` is Postgres' time of the claim, `deadline` the time.monotonic() at which the claim expires.
    """

    key: str
    event_id: str
    account: str
    customer_id: str
    organization_id: str
    status: ExportStatus
    attempts: int
    location: str | None
    last_error: str | None
    now: datetime
    deadline: float
    is_shadow: bool = False
    """Whether shadow mode was on at the claim."""


class ExportOrders(Claims[ExportOrder]):
    """The export orders as one process uses them. Every method raises StoreUnavailable if Postgres does not answer."""

    application = "billing-exports"
    queue = Queue(
        outbox=EXPORTS,
        listed="export_key, event_id, account, customer_id, organization_id, status, attempts, requested_at, "
        "next_attempt_at, expires_at, done_at, last_error",
        claim=CLAIM,
        claimable=(ExportStatus.QUEUED, ExportStatus.WORKING, ExportStatus.DONE, ExportStatus.EXPIRED),
        # An order keeps the archive name of its first claim, so the next try overwrites a file left by a crash.
        on_claim=f"status = CASE WHEN {_IS_WANTED} THEN 'working' ELSE 'expired' END, "
        f"location = CASE WHEN {_IS_WANTED} THEN coalesce(o.location, $5) ELSE o.location END",
        on_done=", done_at = now() + $2::interval, next_attempt_at = o.expires_at, attempts = 0",
    )

    async def revoke(self, keys: Sequence[str], *, entry: AuditEntry | None = None) -> list[str]:
        """End the links of these exports at once; their archives are deleted. Record `entry` with that.

        Return the keys that have an archive.
        """
        with classified():
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(_REVOKE, list(keys), self._ahead())
                if entry is not None and rows:
                    await audit_log.record(connection, replace(entry, count=len(rows)))
        return [row["export_key"] for row in rows]

    async def find(self, export_key: str) -> StoredExport | None:
        """Return the export's current state, or None if there is no such export."""
        with classified():
            row = await self._pool.fetchrow(_FIND, export_key)
        if row is None:
            return None
        values = dict(row)
        return StoredExport(status=ExportStatus(values.pop("status")), **values)

    def _claim_values(self, avoid: Collection[str]) -> Sequence[object]:  # noqa: ARG002  # exports have no kinds
        return (new_name(),)  # one name: orders are claimed one at a time

    def _read(self, row: asyncpg.Record, deadline: float) -> ExportOrder:
        return ExportOrder(
            **self._claimed(row, deadline),
            organization_id=row["organization_id"],
            status=ExportStatus(row["status"]),
            location=row["location"],
        )
