"""The position of a consumer group in each partition, according to the database (docs/decisions.md 5).

Each batch's transaction writes the offset up to which this database has its effects. The group's committed offset and
the table of settled ids are caches of it: when they claim more, the database was restored, replaced or promoted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg
from pydantic import SecretStr

from sinks.postgres.failures import classified
from sinks.postgres.pool import connect

WITHHELD = "may have been sent before the database was restored; billing mail requeue sends it"
"""Why a mail that was queued by an event applied for the second time is withheld."""

_READ = """
SELECT partition, next_offset, reread_until, topic_id FROM billing.positions
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
_BIND = """
INSERT INTO billing.positions AS p (consumer_group, topic, partition, next_offset, updated_at, topic_id)
SELECT $1, $2, partition, 0, now(), $4 FROM unnest($3::int[]) AS r (partition)
ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET topic_id = excluded.topic_id WHERE p.topic_id IS NULL
"""
_RESTART = """
UPDATE billing.positions SET next_offset = $4, reread_until = NULL, topic_id = $5, updated_at = now()
WHERE consumer_group = $1 AND topic = $2 AND partition = $3
"""
_NOTE_GAP = """
UPDATE billing.positions SET gap_since = least(gap_since, updated_at), gap_noted_at = now()
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3::int[])
"""
_GAP = (
    "SELECT min(gap_since) AS since, max(gap_noted_at) AS noted_at FROM billing.positions WHERE gap_since IS NOT NULL"
)
_GAP_REPAIRED = "UPDATE billing.positions SET gap_since = NULL, gap_noted_at = NULL WHERE gap_noted_at <= $1"
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
    """The next offset to apply. Mails of records before `reread_until` may have been sent by an earlier application.

    `topic_id` is Kafka's id of the topic that the offset is of, None for a position from before migration 0025.
    """

    next_offset: int
    reread_until: int | None = None
    topic_id: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that Kafka deleted before a group had read them: the group had applied everything until `since`."""

    since: datetime
    noted_at: datetime


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
    return {row["partition"]: Position(row["next_offset"], row["reread_until"], row["topic_id"]) for row in rows}


async def advance(connection: Connection, group: str, topic: str, reached: Mapping[int, int]) -> None:
    """Moves positions forward, never back."""
    partitions = sorted(reached)
    await connection.execute(_ADVANCE, group, topic, partitions, [reached[partition] for partition in partitions])


async def rewind(connection: Connection, group: str, topic: str, partition: int, position: Position) -> None:
    """Sets a position, also back."""
    await connection.execute(_REWIND, group, topic, partition, position.next_offset, position.reread_until)


async def bind(connection: Connection, group: str, topic: str, topic_id: str, partitions: list[int]) -> None:
    """Notes the topic's id for positions that have none, also for partitions of which nothing is applied yet."""
    await connection.execute(_BIND, group, topic, partitions, topic_id)


async def restart(connection: Connection, group: str, topic: str, topic_id: str, begins: Mapping[int, int]) -> None:
    """Sets positions to the first offsets of another topic with the same name."""
    for partition, offset in sorted(begins.items()):
        await connection.execute(_RESTART, group, topic, partition, offset, topic_id)


async def note_gap(connection: Connection, group: str, topic: str, partitions: list[int]) -> None:
    """Notes that Kafka deleted records of these partitions unread, since the group's last progress in them."""
    await connection.execute(_NOTE_GAP, group, topic, partitions)


async def gap_of(url: SecretStr) -> Gap | None:
    """Returns what some group lacks because Kafka deleted it unread. Raises StoreUnavailable, InvalidSettings."""
    async with _session(url) as connection:
        row = await connection.fetchrow(_GAP)
    return Gap(row["since"], row["noted_at"]) if row is not None and row["since"] is not None else None


async def gap_repaired(url: SecretStr, gap: Gap) -> None:
    """Forgets the gap after a complete reconciliation, but not what was noted since `gap` was read."""
    async with _session(url) as connection:
        await connection.execute(_GAP_REPAIRED, gap.noted_at)


@asynccontextmanager
async def _session(url: SecretStr) -> AsyncIterator[Connection]:
    with classified():
        connection = await connect(url, application="billing-positions")
        try:
            yield connection
        finally:
            await connection.close()


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
    async with _session(url) as connection:
        return await identity(connection)
