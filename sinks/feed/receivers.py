"""The receivers that fail, in `billing.feed_destinations`: since when, and whether they are disabled.

A disabled receiver gets nothing: its notifications stay queued until an operator enables it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg

from sinks.postgres.outboxes import NOTIFICATIONS

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]

_LONGEST_REASON = 500
_ACCEPTED = """
UPDATE billing.feed_destinations SET failing_since = NULL, disabled_at = NULL, reason = NULL
WHERE destination = $1 AND failing_since IS NOT NULL AND (disabled_at IS NULL OR $2)
"""
_FAILED = """
INSERT INTO billing.feed_destinations AS d (destination, failing_since, disabled_at, reason)
VALUES ($1, now() + $4::interval, CASE WHEN $3::interval = '0' THEN now() + $4::interval END, $2)
ON CONFLICT (destination) DO UPDATE SET
    failing_since = coalesce(d.failing_since, excluded.failing_since),
    disabled_at = CASE
        WHEN coalesce(d.failing_since, excluded.failing_since) + $3::interval <= now() + $4::interval
        THEN now() + $4::interval
    END,
    reason = excluded.reason
WHERE d.disabled_at IS NULL OR $3::interval IS NULL
RETURNING disabled_at
"""
_ENABLE = """
UPDATE billing.feed_destinations SET failing_since = NULL, disabled_at = NULL, reason = NULL
WHERE destination = $1 AND disabled_at IS NOT NULL
"""
_STATES = """
SELECT coalesce(d.destination, n.destination) AS destination, d.failing_since, d.disabled_at, d.reason,
    coalesce(n.queued, 0) AS queued, coalesce(n.failed, 0) AS failed
FROM billing.feed_destinations d FULL JOIN (
    SELECT destination, count(*) FILTER (WHERE status IN ('queued', 'sending')) AS queued,
        count(*) FILTER (WHERE status = 'failed') AS failed
    FROM billing.notifications WHERE status IN ('queued', 'sending', 'failed') GROUP BY destination
) n ON n.destination = d.destination
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class ReceiverState:
    """One destination that has failed or has open or failed notifications. Times are UTC."""

    destination: str
    failing_since: datetime | None
    disabled_at: datetime | None
    reason: str | None
    queued: int
    failed: int


async def accepted(connection: Connection, destination: str, *, enables: bool = False) -> None:
    """Store that the receiver has accepted a notification. This ends its failing, and `enables` a disabled one."""
    await connection.execute(_ACCEPTED, destination, enables)


async def failed(
    connection: Connection, destination: str, reason: str, *, disable_after: timedelta | None, ahead: timedelta
) -> bool:
    """Store that the receiver has failed. Returns whether this disabled it: it failed for `disable_after`.

    None never disables it.
    """
    disabled_at = await connection.fetchval(_FAILED, destination, reason[:_LONGEST_REASON], disable_after, ahead)
    return disabled_at is not None


async def enable(connection: Connection, destination: str) -> bool:
    """Enable a disabled receiver and wake the dispatchers. Returns False if it was not disabled."""
    done = await connection.execute(_ENABLE, destination)
    await connection.execute("SELECT pg_notify($1, '')", NOTIFICATIONS.channel)
    return str(done) == "UPDATE 1"


async def states(connection: Connection) -> Sequence[ReceiverState]:
    """Return the destinations that have failed, or have open or failed notifications, ordered by name."""
    return [ReceiverState(**dict(row)) for row in await connection.fetch(_STATES)]
