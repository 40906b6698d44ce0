"""Between the worker's transaction and a dispatcher: the rows of one outbox table, one state machine.

    queued ──claim──▶ busy ──▶ done
      ▲  ▲             │  │
      │  └── later ────┘  └────▶ failed ──requeue──▶ queued
      └──── the claim ran out (its dispatcher died)

While a row is busy, `next_attempt_at` is when its claim runs out; so "due" is one condition for both, and one index.
A claim is told apart by `claimed_by` and `attempts`: whoever lost it changes nothing any more. What "busy" and "done"
are called is the table's own.
"""

# ruff: noqa: S608 - what the statements are put together of is a Queue, and that holds constants of ours

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import asyncpg
from pydantic import SecretStr

from sinks.postgres.failures import classified
from sinks.postgres.pool import CONNECT_TIMEOUT_S, SessionTimeouts, dsn

CLAIM = timedelta(minutes=10)
"""Longer than a claimed handful can take (the dispatchers see to that), so that a living one keeps its claims."""

_LONGEST_ERROR = 500


class Claimed(Protocol):
    """A row of ours, as far as settling it needs to know."""

    @property
    def key(self) -> str: ...
    @property
    def attempts(self) -> int: ...


C = TypeVar("C", bound=Claimed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One outbox table in its own words. All of it is SQL of ours, nothing of it comes from outside."""

    table: str
    key: str
    busy: str
    channel: str
    """Notified when rows are queued."""
    kind: str
    """The column that sorts rows for people: template, purpose."""
    listed: str
    """The columns an operator sees."""
    read: str = "SELECT * FROM claimed ORDER BY queued_at"
    """What a claim returns of `claimed`, the table's rows."""
    may_claim: str = "true"
    """A further condition on a due row `o`."""
    on_requeue: str = ""
    """Further assignments; $4 is now."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How much is still to be done, and since when the longest-waiting due row is due."""

    open: int
    oldest_due: datetime | None


class _Statements:
    """The SQL of one queue: constants, put together once."""

    def __init__(self, q: Queue) -> None:
        table = f"billing.{q.table}"
        is_open = f"status IN ('queued', '{q.busy}')"
        filters = f"($2::text IS NULL OR {q.kind} = $2)"
        self.has_due = f"SELECT EXISTS (SELECT FROM {table} WHERE {is_open} AND next_attempt_at <= $1)"
        # The CTE locks each row before it is changed; a subquery in its place might be run twice and claim too many.
        self.claim = f"""
WITH due AS (
    SELECT {q.key} FROM {table} o WHERE {is_open} AND next_attempt_at <= $1 AND {q.may_claim}
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE {table} o
    SET status = '{q.busy}', claimed_by = $3, attempts = o.attempts + 1, next_attempt_at = $4
    FROM due WHERE o.{q.key} = due.{q.key}
    RETURNING o.*
)
{q.read}"""
        self.ours = (
            f"UPDATE {table} SET claimed_by = NULL, {{}} "
            f"WHERE {q.key} = $1 AND status = '{q.busy}' AND claimed_by = $2 AND attempts = $3"
        )
        self.depth = (
            "SELECT count(*) AS open, min(next_attempt_at) FILTER (WHERE next_attempt_at <= $1) AS oldest_due "
            f"FROM {table} WHERE {is_open}"
        )
        self.list = (
            f"SELECT {q.listed} FROM {table} WHERE ($1::text IS NULL OR status = $1) AND {filters} "
            f"AND ($3::text IS NULL OR customer_id = $3) ORDER BY queued_at DESC, {q.key} LIMIT $4"
        )
        self.requeue = f"""
WITH chosen AS (
    SELECT {q.key} FROM {table}
    WHERE status = 'failed' AND ($1::text[] IS NULL OR {q.key} = ANY($1)) AND {filters}
    ORDER BY queued_at, {q.key} LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE {table} o SET status = 'queued', attempts = 0, next_attempt_at = $4, claimed_by = NULL{q.on_requeue}
FROM chosen WHERE o.{q.key} = chosen.{q.key}
RETURNING o.{q.key} AS key"""


class Claims(ABC, Generic[C]):
    """The table as one dispatcher sees it. Every method raises StoreUnavailable when Postgres does not answer."""

    queue: ClassVar[Queue]
    application: ClassVar[str]
    _sql: ClassVar[_Statements]

    def __init_subclass__(cls) -> None:
        cls._sql = _Statements(cls.queue)

    def __init__(self, pool: asyncpg.Pool, claimer: str, *, claim: timedelta = CLAIM) -> None:
        self._pool = pool
        self._claimer = claimer
        self._claim = claim

    @classmethod
    async def connect(
        cls,
        url: SecretStr,
        *,
        claimer: str,
        pool_size: int = 4,
        claim: timedelta = CLAIM,
        application: str | None = None,
    ) -> Self:
        """`claimer` must be this process's own. Connects when first needed, so a database that is down is no error."""
        bounds = SessionTimeouts()
        pool = asyncpg.create_pool(
            dsn(url),
            min_size=0,
            max_size=pool_size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=bounds.client_s,
            server_settings=bounds.server_settings(application or cls.application),
        )
        with classified():
            await pool
        return cls(pool, claimer, claim=claim)

    async def close(self) -> None:
        await self._pool.close()

    async def has_due(self, now: datetime) -> bool:
        """Whether a claim may find something."""
        with classified():
            return bool(await self._pool.fetchval(self._sql.has_due, now))

    async def claim(self, now: datetime, limit: int) -> list[C]:
        """Up to `limit` due rows, ours until the claim runs out; each counts as a try from here on."""
        until = now + self._claim
        with classified():
            rows = await self._pool.fetch(self._sql.claim, now, limit, self._claimer, until)
        return [self._read(row, until) for row in rows]

    async def retry(self, row: C, at: datetime, error: str) -> bool:
        """Queued again; the try counts."""
        return await self._settle(
            row, "status = 'queued', next_attempt_at = $4, last_error = $5", at, error[:_LONGEST_ERROR]
        )

    async def give_back(self, row: C, at: datetime, reason: str | None) -> bool:
        """Queued again as if it had not been claimed: the try does not count."""
        return await self._settle(
            row,
            "status = 'queued', next_attempt_at = $4, last_error = coalesce($5, last_error), attempts = attempts - 1",
            at,
            reason and reason[:_LONGEST_ERROR],
        )

    async def fail(self, row: C, error: str) -> bool:
        """Given up, until an operator requeues it."""
        return await self._settle(row, "status = 'failed', last_error = $4", error[:_LONGEST_ERROR])

    async def depth(self, now: datetime) -> Depth:
        with classified():
            row = await self._pool.fetchrow(self._sql.depth, now)
        return Depth(row["open"], row["oldest_due"]) if row is not None else Depth(0, None)

    async def list(
        self, *, status: str | None, kind: str | None = None, customer_id: str | None = None, limit: int = 100
    ) -> Sequence[dict[str, Any]]:
        """Rows for an operator, newest first, without what they carry."""
        with classified():
            return [dict(row) for row in await self._pool.fetch(self._sql.list, status, kind, customer_id, limit)]

    async def requeue(
        self, now: datetime, *, keys: Sequence[str] | None, kind: str | None = None, limit: int = 1000
    ) -> Sequence[str]:
        """Failed rows back into the queue with all their tries; the keys of those that were. `keys` None means any."""
        with classified():
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(self._sql.requeue, keys, kind, limit, now)
                await connection.execute("SELECT pg_notify($1, '')", self.queue.channel)
        return [row["key"] for row in rows]

    async def _settle(self, row: C, assignments: str, *values: object) -> bool:
        """Whether the claim was still ours. `assignments` count from $4."""
        with classified():
            done = await self._pool.execute(
                self._sql.ours.format(assignments), row.key, self._claimer, row.attempts, *values
            )
        return str(done) == "UPDATE 1"

    @abstractmethod
    def _read(self, row: asyncpg.Record, until: datetime) -> C: ...
