"""Shadow mode: the whole system works beside an old handler, and nothing leaves it (behaviours.md F2).

The mode is in the database, so that no process can be started without it. While it is on, dispatchers close what is due
as `withheld` with the reason HELD in place of delivering it. Reads from Stripe are made: they complete the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sinks.postgres import audit_log
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import NOTIFICATIONS, OUTBOXES, STRIPE_CALLS, Outbox
from sinks.postgres.tables.outboxes import HELD

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

IS_ON = "EXISTS (SELECT FROM billing.shadow WHERE ended_at IS NULL)"
"""SQL: whether shadow mode is on."""

AT_ONCE = 1000
"""Rows that one transaction holds or releases."""

_STATE = "SELECT began_at, ended_at FROM billing.shadow"
_BEGIN = """
INSERT INTO billing.shadow (is_only, began_at) VALUES (true, now())
ON CONFLICT (is_only) DO UPDATE SET began_at = excluded.began_at, ended_at = NULL WHERE shadow.ended_at IS NOT NULL
RETURNING began_at
"""
_END = "UPDATE billing.shadow SET ended_at = now() WHERE ended_at IS NULL RETURNING began_at, ended_at"


@dataclass(frozen=True, slots=True)
class Shadow:
    """The newest shadow period. Times are UTC; `ended_at` None: it is on."""

    began_at: datetime
    ended_at: datetime | None

    @property
    def is_on(self) -> bool:
        return self.ended_at is None


async def state(connection: Connection) -> Shadow | None:
    """Returns the newest shadow period, None if there was none. Raises StoreUnavailable."""
    with classified():
        found = await connection.fetchrow(_STATE)
    return Shadow(**dict(found)) if found is not None else None


async def begin(connection: Connection, entry: AuditEntry) -> bool:
    """Turns the mode on, and records `entry`. Returns False if it was on. Raises StoreUnavailable."""
    with classified():
        async with connection.transaction():
            is_new = await connection.fetchval(_BEGIN) is not None
            if is_new:
                await audit_log.record(connection, entry)
    return is_new


async def end(connection: Connection, entry: AuditEntry) -> Shadow | None:
    """Turns the mode off, holds what is still open, and records `entry`.

    In one transaction: what is queued from now on leaves, and nothing from before. A dispatcher that has claimed a row
    loses its claim. Returns the period, None if the mode was off. Raises StoreUnavailable.
    """
    with classified():
        async with connection.transaction():
            found = await connection.fetchrow(_END)
            if found is None:
                return None
            count = 0
            for outbox in OUTBOXES:
                done = await connection.execute(_hold_open(outbox))
                count += int(str(done).rpartition(" ")[2])
            await audit_log.record(connection, replace(entry, count=count))
    return Shadow(**dict(found))


async def note(connection: Connection, entry: AuditEntry) -> None:
    """Records `entry` for a release after the end. Raises StoreUnavailable."""
    with classified():
        await audit_log.record(connection, entry)


async def release(connection: Connection, since: datetime, ahead: timedelta = timedelta(0)) -> Mapping[str, int]:
    """Queues again what was held and was queued at `since` or later. Returns the number of rows by outbox.

    If it is interrupted, call it again. Raises StoreUnavailable.
    """
    released = {}
    for outbox in OUTBOXES:
        count = 0
        while True:
            with classified():
                async with connection.transaction():
                    done = await connection.execute(_release(outbox), since, ahead, AT_ONCE)
                    rows = int(str(done).rpartition(" ")[2])
                    if rows:
                        await connection.execute("SELECT pg_notify($1, '')", outbox.channel)
            count += rows
            if rows < AT_ONCE:
                break
        released[outbox.name] = count
    return released


async def held(connection: Connection, since: datetime) -> list[dict[str, Any]]:
    """Returns what was held and was queued at `since` or later: `outbox`, `kind`, `count`, `first` and `last`.

    Raises StoreUnavailable.
    """
    found: list[dict[str, Any]] = []
    for outbox in OUTBOXES:
        with classified():
            rows = await connection.fetch(_counts(outbox), since)
        found += [{"outbox": outbox.name, **dict(row)} for row in rows]
    return found


async def held_rows(connection: Connection, outbox: Outbox, since: datetime, limit: int) -> list[dict[str, Any]]:
    """Returns the newest rows of an outbox that were held, without their contents. Raises StoreUnavailable."""
    with classified():
        return [dict(row) for row in await connection.fetch(_rows(outbox), since, limit)]


# ruff: noqa: S608 - the statements are built from the registry, which contains only constants
def _is_held(outbox: Outbox) -> str:
    return f"status = 'withheld' AND last_error = '{HELD}' AND {outbox.since} >= $1"


def _hold_open(outbox: Outbox) -> str:
    # Also claimed rows: those of a dispatcher that has died would be queued again when the claim expires.
    only = " AND method <> 'GET'" if outbox is STRIPE_CALLS else ""
    return f"""
UPDATE billing.{outbox.name} SET status = 'withheld', last_error = '{HELD}', claimed_by = NULL
WHERE status IN ('queued', '{outbox.busy}'){only}"""


def _release(outbox: Outbox) -> str:
    # The age limit of tries counts from the release (sinks/stripe_calls, sinks/feed).
    fresh = f", {outbox.since} = now() + $2::interval" if outbox in (STRIPE_CALLS, NOTIFICATIONS) else ""
    return f"""
WITH chosen AS (
    SELECT {outbox.key} FROM billing.{outbox.name} WHERE {_is_held(outbox)} ORDER BY {outbox.since}, {outbox.key}
    LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE billing.{outbox.name} o SET status = 'queued', attempts = 0, last_error = NULL, claimed_by = NULL,
    next_attempt_at = now() + $2::interval{fresh}
FROM chosen WHERE o.{outbox.key} = chosen.{outbox.key}"""


def _counts(outbox: Outbox) -> str:
    kind = outbox.kind or "''"
    return f"""
SELECT {kind} AS kind, count(*) AS count, min({outbox.since}) AS first, max({outbox.since}) AS last
FROM billing.{outbox.name} WHERE {_is_held(outbox)} GROUP BY 1 ORDER BY 2 DESC, 1"""


def _rows(outbox: Outbox) -> str:
    shown = [name for name in outbox.shown if name not in ("status", "last_error", "attempts")]
    columns = dict.fromkeys([outbox.key, "account", "customer_id", *shown, outbox.since])
    return f"""
SELECT {", ".join(columns)} FROM billing.{outbox.name} WHERE {_is_held(outbox)}
ORDER BY {outbox.since} DESC, {outbox.key} LIMIT $2"""
