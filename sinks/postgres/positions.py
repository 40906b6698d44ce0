"""Where a consumer group stands in each partition, according to the database (docs/decisions.md 5).

Each batch's transaction writes the offset up to which this database has its effects. The group's committed offset and
the table of settled ids are caches of it: when they claim more, the database was restored, replaced or promoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
from pydantic import SecretStr

from sinks.postgres.failures import classified
from sinks.postgres.pool import connect

WITHHELD = "may have been sent before the database was restored; billing mail requeue sends it"
"""Why a mail that was queued by an event applied for the second time is withheld."""

_READ = """
SELECT partition, next_offset, reread_until FROM billing.positions
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3::int[])
"""
_ADVANCE = """
INSERT INTO billing.positions AS p (consumer_group, topic, partition, next_offset, updated_at)
SELECT $1, $2, partition, next_offset, now() FROM unnest($3::int[], $4::bigint[]) AS r (partition, next_offset)
ON CONFLICT (consumer_group, topic, partition)
DO UPDATE SET next_offset = greatest(p.next_offset, excluded.next_offset), updated_at = excluded.updated_at
"""
_REWIND = """
INSERT INTO billing.positions AS p (consumer_group, topic, partition, next_offset, reread_until, updated_at)
VALUES ($1, $2, $3, $4, $5, now())
ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET
    next_offset = excluded.next_offset, updated_at = excluded.updated_at,
    reread_until = greatest(p.reread_until, excluded.reread_until)
"""
_WITHHOLD_DUE = """
UPDATE billing.emails SET status = 'withheld', last_error = $1
WHERE status IN ('queued', 'sending') AND next_attempt_at <= now()
"""
_WITHHOLD = """
UPDATE billing.emails SET status = 'withheld', last_error = $2 WHERE event_id = ANY($1::text[]) AND status = 'queued'
"""
_IDENTITY = "SELECT database_id, had_events FROM billing.database_identity ORDER BY created_at LIMIT 1"
_IDENTIFY = """
INSERT INTO billing.database_identity (database_id, had_events, created_at)
SELECT gen_random_uuid()::text, EXISTS (SELECT FROM billing.events), now()
WHERE NOT EXISTS (SELECT FROM billing.database_identity)
"""

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset to apply. Mails of records before `reread_until` may have been sent by an earlier application."""

    next_offset: int
    reread_until: int | None = None


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """The id that `billing migrate` gave this database; copies have the same.

    `had_events` is true if the ledger had rows then: the database is older than its positions.
    """

    database_id: str
    had_events: bool


async def read(connection: Connection, group: str, topic: str, partitions: list[int]) -> dict[int, Position]:
    """Returns the positions by partition, without partitions that this database has applied nothing of."""
    rows = await connection.fetch(_READ, group, topic, partitions)
    return {row["partition"]: Position(row["next_offset"], row["reread_until"]) for row in rows}


async def advance(connection: Connection, group: str, topic: str, reached: Mapping[int, int]) -> None:
    """Moves positions forward, never back."""
    partitions = sorted(reached)
    await connection.execute(_ADVANCE, group, topic, partitions, [reached[partition] for partition in partitions])


async def rewind(connection: Connection, group: str, topic: str, partition: int, position: Position) -> None:
    """Sets a position, also back."""
    await connection.execute(_REWIND, group, topic, partition, position.next_offset, position.reread_until)


async def withhold_due(connection: Connection) -> None:
    """Withholds the mails that are due: a copy of a database has them queued, and the original may have sent them."""
    await connection.execute(_WITHHOLD_DUE, WITHHELD)


async def withhold(connection: Connection, event_ids: list[str]) -> None:
    """Withholds the queued mails of these events."""
    await connection.execute(_WITHHOLD, event_ids, WITHHELD)


async def identify(connection: Connection) -> None:
    """Gives the database its id, if it has none."""
    if await identity(connection) is None:  # otherwise no right to write is needed
        await connection.execute(_IDENTIFY)


async def identity(connection: Connection) -> DatabaseIdentity | None:
    """Returns the id of the database, None before `billing migrate` has given it one."""
    row = await connection.fetchrow(_IDENTITY)
    return None if row is None else DatabaseIdentity(row["database_id"], row["had_events"])


async def identity_of(url: SecretStr) -> DatabaseIdentity | None:
    """Returns the same over a connection of its own. Raises StoreUnavailable, InvalidSettings."""
    with classified():
        connection = await connect(url, application="billing-identity")
        try:
            return await identity(connection)
        finally:
            await connection.close()
