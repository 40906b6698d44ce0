"""Stores the outages that dispatchers see in `billing.outages`, so that commands can show them (`billing mail ls`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from schemas.storable import reason_text

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

# A dispatcher repeats its entry at each poll, every 3 seconds. The entry of one that died expires.
_NOTE = """
INSERT INTO billing.outages AS t (outbox, dispatcher, address, reason, since, seen_at)
VALUES ($1, $2, $3, $4, now(), now())
ON CONFLICT (outbox, dispatcher) DO UPDATE SET reason = excluded.reason, seen_at = now()
"""
_END = "DELETE FROM billing.outages WHERE outbox = $1 AND (dispatcher = $2 OR seen_at < now() - interval '1 day')"
_PRESENT = """
SELECT outbox, address, reason, since FROM billing.outages
WHERE outbox = $1 AND seen_at > now() - interval '2 minutes' ORDER BY since, dispatcher
"""


@dataclass(frozen=True, slots=True)
class PresentOutage:
    """What one dispatcher cannot reach: the other side's address, its last error, and since when (UTC)."""

    outbox: str
    address: str
    reason: str
    since: datetime


async def note(connection: Connection, outbox: str, dispatcher: str, address: str, reason: str | None) -> None:
    """Store that this dispatcher sees an outage with this reason; None: that it has ended."""
    if reason is None:
        await connection.execute(_END, outbox, dispatcher)
    else:
        await connection.execute(_NOTE, outbox, dispatcher, address, reason_text(reason))


async def present(connection: Connection, outbox: str) -> Sequence[PresentOutage]:
    """Return the outages of this outbox that dispatchers see now, the oldest first."""
    return [PresentOutage(**dict(row)) for row in await connection.fetch(_PRESENT, outbox)]
