"""Stores facts and the figures of their owners in one transaction.

All errors raised here are StoreUnavailable or StoreRefused. Writing the same facts and figures again changes nothing.
So if the outcome of a commit is unknown, the transaction is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
from pydantic import SecretStr

from analytics.queries import LACKS_TOTALS
from analytics.tables import FIGURE_TABLES, facts
from schemas.figures import FIGURE_KEYS, FIGURE_TYPES, Fact, Figure, Owner
from sinks.postgres.failures import classified
from sinks.postgres.pool import CONNECT_TIMEOUT_S, PLANNING, make_pool
from sinks.postgres.statements import RowShape

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

_FACTS = RowShape(facts, Fact, ["event_id"])
_FIGURES: dict[type[Figure], RowShape[Any]] = {
    kind: RowShape(FIGURE_TABLES[kind], kind, FIGURE_KEYS[kind]) for kind in FIGURE_TYPES
}


def _upsert(shape: RowShape[Any]) -> str:
    key, rest = ", ".join(shape.key), [name for name in shape.names if name not in shape.key]
    return shape.insert(f"({key}) DO UPDATE SET " + ", ".join(f'"{name}" = excluded."{name}"' for name in rest))


# A partition's lock, different from the worker's. It excludes a follower that lost a partition and the partition's new
# owner from each other.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('analytics ' || name, 0)) FROM unnest($1::text[]) AS name"
_ADD = _FACTS.insert("(event_id) DO NOTHING")
_REPLACE = _upsert(_FACTS)
_UPSERTS = {kind: _upsert(shape) for kind, shape in _FIGURES.items()}
_DELETES = {kind: shape.delete() for kind, shape in _FIGURES.items()}
_OWNERS = "unnest($1::text[], $2::boolean[], $3::text[]) AS o (account, livemode, owner)"
_SAME_OWNER = "t.account = o.account AND t.livemode = o.livemode AND t.owner = o.owner"
_OWNERS_AFTER = """
SELECT DISTINCT account, livemode, owner FROM analytics.facts WHERE (account, livemode, owner) > ($1, $2, $3)
ORDER BY account, livemode, owner LIMIT $4
"""
_FORGET = """
DELETE FROM analytics.facts WHERE event_id IN (SELECT event_id FROM analytics.facts ORDER BY event_id LIMIT $1)
"""
_FILL_MS = 600_000
_FILL_TOTALS = """
INSERT INTO analytics.payment_totals
    (account, livemode, owner, currency, payments, amount, unpaid, unpaid_amount, refunded)
SELECT account, livemode, owner, currency, count(*) FILTER (WHERE kind IN ('invoice', 'purchase')),
    coalesce(sum(amount) FILTER (WHERE kind IN ('invoice', 'purchase')), 0), count(*) FILTER (WHERE kind = 'failed'),
    coalesce(sum(amount) FILTER (WHERE kind = 'failed'), 0), coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)
FROM analytics.payments GROUP BY account, livemode, owner, currency
"""
_STRAYS = (
    "SELECT 1 FROM analytics.facts AS t WHERE t.account = f.account AND t.livemode = f.livemode AND t.owner = f.owner"
)


def _of_owners(shape: RowShape[Any]) -> str:
    return f"SELECT {shape.selected} FROM {_OWNERS} JOIN {shape.table.fullname} AS t ON {_SAME_OWNER}"  # noqa: S608  # only constant names


class FigureStore:
    """The pool of connections of analytics. The entry point opens and closes it."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    @classmethod
    async def connect(cls, url: SecretStr, *, pool_size: int = 1) -> FigureStore:
        """Opens the pool and one connection, so that a wrong address fails here.

        Raises StoreUnavailable, InvalidSettings.
        """
        store = cls(
            await make_pool(url, application="billing-analytics", min_size=1, max_size=pool_size, parameters=PLANNING)
        )
        await store._fill_totals()
        return store

    async def _fill_totals(self) -> None:
        """Makes the totals of payments that an earlier version counted: once, after migration 0024."""
        with classified():
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection, connection.transaction():
                if await connection.fetchval(LACKS_TOTALS):
                    await connection.execute(f"SET LOCAL statement_timeout = {_FILL_MS}")
                    await connection.execute("LOCK TABLE analytics.payment_totals IN SHARE ROW EXCLUSIVE MODE")
                    if await connection.fetchval(LACKS_TOTALS):
                        await connection.execute(_FILL_TOTALS, timeout=_FILL_MS / 1000)

    async def close(self) -> None:
        """Waits up to CONNECT_TIMEOUT_S seconds for connections in use, then ends them."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def transaction(self, locks: Iterable[tuple[str, int]]) -> AsyncIterator[FigureTransaction]:
        """Runs the block in a transaction: commits at its end, rolls back on any exception.

        `locks` are (topic, partition) pairs; their advisory locks are held until the end.
        """
        with classified():
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection, connection.transaction():
                await connection.execute(_LOCK, sorted({f"{topic}/{partition}" for topic, partition in locks}))
                yield FigureTransaction(connection)


class FigureTransaction:
    """Reads and writes in one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, new: Sequence[Fact], *, replacing: bool = False) -> set[Owner]:
        """Stores one fact per event and returns the owners of the facts that were new.

        `replacing` overwrites stored facts and returns the owners of all facts.
        """
        distinct = list({fact.event_id: fact for fact in new}.values())
        if not distinct:
            return set()
        statement = (_REPLACE if replacing else _ADD) + " RETURNING account, livemode, owner"
        with classified(_FACTS.arguments_named):
            rows = await self._connection.fetch(statement, *_FACTS.arguments(distinct))
        return {Owner(*row) for row in rows}

    async def facts_of(self, owners: Collection[Owner]) -> list[Fact]:
        """Returns all facts of these owners, in no particular order."""
        with classified():
            rows = await self._connection.fetch(_of_owners(_FACTS), *_columns(owners))
        return [_FACTS.row(row) for row in rows]

    async def figures_of(self, owners: Collection[Owner]) -> list[Figure]:
        """Returns all stored figures of these owners, in no particular order."""
        found: list[Figure] = []
        for shape in _FIGURES.values():
            with classified():
                rows = await self._connection.fetch(_of_owners(shape), *_columns(owners))
            found += [shape.row(row) for row in rows]
        return found

    async def write(self, gone: Iterable[Figure], changed: Iterable[Figure]) -> None:
        """Deletes the figures in `gone` and upserts those in `changed`, by key."""
        gone, changed = list(gone), list(changed)
        for kind, shape in _FIGURES.items():
            for statement, rows in ((_DELETES[kind], gone), (_UPSERTS[kind], changed)):
                if of_kind := [row for row in rows if isinstance(row, kind)]:
                    with classified(shape.arguments_named):
                        await self._connection.execute(statement, *shape.arguments(of_kind))

    async def owners_after(self, last: Owner | None, limit: int) -> list[Owner]:
        """Returns up to `limit` owners that have facts and sort after `last`, in order."""
        with classified():
            rows = await self._connection.fetch(_OWNERS_AFTER, *(last or Owner("", False, "")), limit)
        return [Owner(*row) for row in rows]

    async def forget(self, most: int) -> int:
        """Deletes up to `most` facts; returns how many. The caller updates the figures after the last ones."""
        with classified():
            tag = await self._connection.execute(_FORGET, most)
        return int(tag.rpartition(" ")[2])

    async def drop_strays(self) -> int:
        """Deletes the figures of owners that have no facts. Returns the number of rows."""
        dropped = 0
        for shape in _FIGURES.values():
            with classified():
                tag = await self._connection.execute(
                    f"DELETE FROM {shape.table.fullname} AS f WHERE NOT EXISTS ({_STRAYS})"  # noqa: S608  # only constant names
                )
            dropped += int(tag.rpartition(" ")[2])
        return dropped


def _columns(owners: Collection[Owner]) -> tuple[list[str], list[bool], list[str]]:
    return [of.account for of in owners], [of.livemode for of in owners], [of.owner for of in owners]
