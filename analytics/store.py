"""Stores facts and the figures of their owners in one transaction.

All errors raised here are StoreUnavailable or StoreRefused. Writing the same facts and figures again changes nothing.
So if the outcome of a commit is unknown, the transaction is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg
from pydantic import SecretStr

from analytics.queries import LACKS_TOTALS
from analytics.running import Checkpoint
from analytics.tables import FIGURE_TABLES, checkpoints, facts
from schemas.figures import (
    FIGURE_KEYS,
    FIGURE_TYPES,
    Fact,
    Figure,
    Movement,
    Owner,
    PaymentFigure,
    Recovery,
    Risk,
    Usage,
)
from sinks.postgres.failures import classified
from sinks.postgres.planning import PLANNING
from sinks.postgres.pool import CONNECT_TIMEOUT_S, make_pool
from sinks.postgres.statements import RowShape

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

_FACTS = RowShape(facts, Fact, ["event_id"])
_CHECKPOINTS = RowShape(checkpoints, Checkpoint, ["account", "livemode", "owner"])
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
_SAVE_CHECKPOINTS = _upsert(_CHECKPOINTS)
_IS_OWNER = "t.account = $1 AND t.livemode = $2 AND t.owner = $3"
_TAIL = f"SELECT {_FACTS.selected} FROM analytics.facts AS t WHERE {_IS_OWNER} AND t.created >= $4"  # noqa: S608  # only constant names
# $4: the tail's first second. $5: its subjects. $6: subscriptions that it has lost. A purchase that has an invoice
# counts only while the invoice is unpaid, so each of the two brings the other.
_TOUCHED = f"""
WITH named AS (
    SELECT unnest($5::text[]) AS subject
    UNION SELECT t.invoice_id FROM analytics.recoveries AS t WHERE {_IS_OWNER} AND t.ended_at >= $4
    UNION SELECT t.invoice_id FROM analytics.recoveries AS t
        WHERE {_IS_OWNER} AND t.ended_at IS NULL AND t.subscription_id = ANY($6::text[])
), with_purchases AS (
    SELECT subject FROM named
    UNION SELECT t.subject FROM named JOIN analytics.facts AS t ON t.data ->> 'invoice' = named.subject
        AND t.kind = 'purchase' AND {_IS_OWNER}
), with_invoices AS (
    SELECT subject FROM with_purchases
    UNION SELECT t.data ->> 'invoice' FROM with_purchases AS w JOIN analytics.facts AS t ON t.subject = w.subject
        AND t.kind = 'purchase' AND {_IS_OWNER} WHERE t.data ->> 'invoice' IS NOT NULL
)
SELECT {_FACTS.selected} FROM with_invoices AS w JOIN analytics.facts AS t ON t.subject = w.subject AND {_IS_OWNER}
WHERE t.kind <> 'subscription'
"""  # noqa: S608  # only constant names
_SINCE: dict[type[Figure], str] = {
    Movement: "t.at >= $4",
    Risk: "(t.ended_at IS NULL OR t.ended_at >= $4)",
    Usage: "$4::timestamptz IS NOT NULL",  # all of them: one for each living subscription
}
_ABOUT: dict[type[Figure], str] = {
    Recovery: "t.invoice_id = ANY($4::text[])",
    PaymentFigure: "t.subject = ANY($4::text[])",
}
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


_DROP_CHECKPOINTS = f"DELETE FROM analytics.checkpoints AS t USING {_OWNERS} WHERE {_SAME_OWNER}"  # noqa: S608  # only constant names


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

    async def add(self, new: Sequence[Fact], *, replacing: bool = False) -> dict[Owner, datetime]:
        """Stores one fact per event. Returns the owners of the facts that were new, each with the earliest second.

        `replacing` overwrites stored facts and returns the owners of all facts.
        """
        distinct = list({fact.event_id: fact for fact in new}.values())
        if not distinct:
            return {}
        statement = (_REPLACE if replacing else _ADD) + " RETURNING account, livemode, owner, created"
        with classified(_FACTS.arguments_named):
            rows = await self._connection.fetch(statement, *_FACTS.arguments(distinct))
        found: dict[Owner, datetime] = {}
        for account, livemode, owner, created in rows:
            of = Owner(account, livemode, owner)
            found[of] = min(created, found.get(of, created))
        return found

    async def checkpoints_of(self, owners: Collection[Owner]) -> list[Checkpoint]:
        """Returns the checkpoints of those of these owners that have one."""
        with classified():
            rows = await self._connection.fetch(_of_owners(_CHECKPOINTS), *_columns(owners))
        return [_CHECKPOINTS.row(row) for row in rows]

    async def save_checkpoints(self, rows: Collection[Checkpoint]) -> None:
        if rows:
            with classified(_CHECKPOINTS.arguments_named):
                await self._connection.execute(_SAVE_CHECKPOINTS, *_CHECKPOINTS.arguments(rows))

    async def drop_checkpoints(self, owners: Collection[Owner]) -> None:
        """Deletes the checkpoints of these owners: their older facts have changed."""
        with classified():
            await self._connection.execute(_DROP_CHECKPOINTS, *_columns(owners))

    async def facts_since(self, owner: Owner, since: datetime) -> list[Fact]:
        """Returns the owner's facts from this second on, in no particular order."""
        with classified():
            return [_FACTS.row(row) for row in await self._connection.fetch(_TAIL, *owner, since)]

    async def facts_touched(
        self, owner: Owner, since: datetime, subjects: Collection[str], lost: Collection[str]
    ) -> list[Fact]:
        """Returns all facts, of any time, of the invoices, purchases and charges whose figures may have changed.

        Those are the `subjects` of the facts from `since` on, what belongs to them, and failed invoices of the
        subscriptions in `lost`.
        """
        with classified():
            rows = await self._connection.fetch(_TOUCHED, *owner, since, list(subjects), list(lost))
        return [_FACTS.row(row) for row in rows]

    async def figures_about(self, owner: Owner, since: datetime, subjects: Collection[str]) -> list[Figure]:
        """Returns the owner's stored figures that facts from `since` on, and facts of `subjects`, can have changed.

        Totals are complete.
        """
        found: list[Figure] = []
        for kind, shape in _FIGURES.items():
            condition, arguments = "", list[object]()
            if kind in _SINCE:
                condition, arguments = f" AND {_SINCE[kind]}", [since]
            elif kind in _ABOUT:
                condition, arguments = f" AND {_ABOUT[kind]}", [list(subjects)]
            query = f"SELECT {shape.selected} FROM {shape.table.fullname} AS t WHERE {_IS_OWNER}{condition}"  # noqa: S608  # only constant names
            with classified():
                found += [shape.row(row) for row in await self._connection.fetch(query, *owner, *arguments)]
        return found

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
            await self._connection.execute("DELETE FROM analytics.checkpoints")
            tag = await self._connection.execute(_FORGET, most)
        return int(tag.rpartition(" ")[2])

    async def drop_strays(self) -> int:
        """Deletes the figures and checkpoints of owners that have no facts. Returns the number of figures."""
        dropped = 0
        for table in (checkpoints, *FIGURE_TABLES.values()):
            with classified():
                tag = await self._connection.execute(
                    f"DELETE FROM {table.fullname} AS f WHERE NOT EXISTS ({_STRAYS})"  # noqa: S608  # only constant names
                )
            dropped += int(tag.rpartition(" ")[2]) if table is not checkpoints else 0
        return dropped


def _columns(owners: Collection[Owner]) -> tuple[list[str], list[bool], list[str]]:
    return [of.account for of in owners], [of.livemode for of in owners], [of.owner for of in owners]
