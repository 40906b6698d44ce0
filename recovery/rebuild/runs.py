"""Prepares the database that a rebuild writes, and keeps the row in it that records which offsets were applied."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
from pydantic import SecretStr
from sqlalchemy import exists, select

from schemas.errors import BillingError
from sinks.postgres.failures import classified
from sinks.postgres.migration import migrate, revision
from sinks.postgres.pool import connect, reading
from sinks.postgres.revisions import newest_revision
from sinks.postgres.tables import backfills, database_identity, metadata

_BEGIN = "INSERT INTO billing.rebuilds (topic, started_at, offsets) VALUES ($1, $2, $3) RETURNING rebuild_id"
_END = "UPDATE billing.rebuilds SET ended_at = $2, counts = $3 WHERE rebuild_id = $1"
_WAITING = """
SELECT event_id, type, source, endpoint, $1::text AS topic, "partition", "offset", payload::text AS payload,
    coalesce(received_at, applied_at) AS at
FROM billing.events WHERE outcome = 'waiting' AND payload IS NOT NULL ORDER BY created, event_id LIMIT 10000
"""

_OF_MIGRATE = (backfills, database_identity)
"""Tables in which `migrate` itself inserts rows: they are not empty in a new database."""


class NotEmpty(BillingError):
    """The target database is not empty, so a rebuild would mix its rows with existing ones. The message names them."""


async def prepare(url: SecretStr) -> None:
    """Migrate an empty database. Raises NotEmpty (also for a different schema revision), StoreUnavailable."""
    async with reading(url) as connection:
        found = await revision(connection)
    if found is None:
        await migrate(url)
    elif found != newest_revision():
        raise NotEmpty(f"the database is at revision {found}, not {newest_revision()}: it is in use by another version")
    async with reading(url) as connection:
        for table in (table for table in metadata.sorted_tables if table not in _OF_MIGRATE):
            if (await connection.execute(select(exists(select(1).select_from(table))))).scalar():
                raise NotEmpty(f"the database is not empty: table {table.name} has rows")


class CurrentRebuild:
    """The row of the current rebuild."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], rebuild_id: int, topic: str) -> None:
        self._connection = connection
        self._id = rebuild_id
        self._topic = topic

    async def waiting(self) -> list[asyncpg.Record]:
        """Return the waiting events, the oldest first, 10 000 at most."""
        with classified():
            return await self._connection.fetch(_WAITING, self._topic)

    async def end(self, counts: Mapping[str, Any]) -> None:
        with classified():
            await self._connection.execute(_END, self._id, datetime.now(UTC), orjson.dumps(dict(counts)).decode())


@asynccontextmanager
async def noted(
    url: SecretStr, topic: str, started: datetime, offsets: Mapping[str, tuple[int, int]]
) -> AsyncIterator[CurrentRebuild]:
    """Insert the row of a rebuild and yield it. `offsets`: [first, next) by partition. Raises StoreUnavailable."""
    connection = await connect(url, application="billing-rebuild")
    try:
        with classified():
            rebuild_id = await connection.fetchval(_BEGIN, topic, started, orjson.dumps(dict(offsets)).decode())
        yield CurrentRebuild(connection, rebuild_id, topic)
    finally:
        connection.terminate()
