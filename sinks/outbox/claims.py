"""Claims, settles and lists the rows of one outbox table. The worker queues rows, dispatchers claim them.

    queued ──claim──▶ busy ──▶ done
      ▲  ▲             │  │
      │  └── later ────┘  └────▶ failed ──requeue──▶ queued
      └──── claim expired (its dispatcher died)

While a row is busy, `next_attempt_at` is the time its claim expires, so one condition and one index find both due rows
and expired claims. A claim is identified by `claimed_by` and `attempts`: a dispatcher that lost its claim can no longer
change the row. Each table has its own names for "busy" and "done".
"""

# ruff: noqa: S608 - the statements are built from Queue objects, which contain only constants

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import asyncpg
from pydantic import SecretStr

from sinks.postgres.failures import classified
from sinks.postgres.outboxes import Outbox
from sinks.postgres.pool import make_pool

CLAIM = timedelta(minutes=10)
"""Duration of a claim. Dispatchers finish a claimed batch before it expires, so a live dispatcher keeps its claims."""

_LONGEST_ERROR = 500
"""Characters stored in `last_error`."""


class Claimed(Protocol):
    """A claimed row: the attributes needed to settle it."""

    @property
    def key(self) -> str: ...
    @property
    def attempts(self) -> int: ...


C = TypeVar("C", bound=Claimed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """How the rows of one outbox are claimed and listed. All values are constants in code, never user input."""

    outbox: Outbox
    listed: str
    """The columns that `list` returns."""
    read: str = "SELECT * FROM claimed ORDER BY queued_at"
    """The query that returns a claim's rows; `claimed` contains the claimed rows of the table."""
    may_claim: str = "true"
    """An additional condition for claiming a due row `o`."""
    on_requeue: str = ""
    """Additional assignments of a requeue, each starting with a comma; $4 is the current time."""


@dataclass(frozen=True, slots=True)
class Depth:
    """The number of open rows, and since when the oldest due row has been due (UTC, None if no row is due)."""

    open: int
    oldest_due: datetime | None


class _Statements:
    """The SQL statements of one queue, built once."""

    def __init__(self, q: Queue) -> None:
        table, key, busy = q.outbox.table.fullname, q.outbox.key, q.outbox.busy
        is_open = f"status IN ('queued', '{busy}')"
        filters = f"($2::text IS NULL OR {q.outbox.kind} = $2)"
        self.has_due = f"SELECT EXISTS (SELECT FROM {table} WHERE {is_open} AND next_attempt_at <= $1)"
        # The CTE locks each row before the update. Postgres may run a subquery twice, which would claim too many rows.
        self.claim = f"""
WITH due AS (
    SELECT {key} FROM {table} o WHERE {is_open} AND next_attempt_at <= $1 AND {q.may_claim}
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE {table} o
    SET status = '{busy}', claimed_by = $3, attempts = o.attempts + 1, next_attempt_at = $4
    FROM due WHERE o.{key} = due.{key}
    RETURNING o.*
)
{q.read}"""
        self.settle = (
            f"UPDATE {table} SET claimed_by = NULL, {{}} "
            f"WHERE {key} = $1 AND status = '{busy}' AND claimed_by = $2 AND attempts = $3"
        )
        self.depth = (
            "SELECT count(*) AS open, min(next_attempt_at) FILTER (WHERE next_attempt_at <= $1) AS oldest_due "
            f"FROM {table} WHERE {is_open}"
        )
        self.list = (
            f"SELECT {q.listed} FROM {table} WHERE ($1::text IS NULL OR status = $1) AND {filters} "
            f"AND ($3::text IS NULL OR customer_id = $3) ORDER BY queued_at DESC, {key} LIMIT $4"
        )
        self.requeue = f"""
WITH chosen AS (
    SELECT {key} FROM {table}
    WHERE status = 'failed' AND ($1::text[] IS NULL OR {key} = ANY($1)) AND {filters}
    ORDER BY queued_at, {key} LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE {table} o SET status = 'queued', attempts = 0, next_attempt_at = $4, claimed_by = NULL{q.on_requeue}
FROM chosen WHERE o.{key} = chosen.{key}
RETURNING o.{key} AS key"""


class Claims(ABC, Generic[C]):
    """An outbox table as one dispatcher uses it. Every method raises StoreUnavailable if Postgres does not answer."""

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
        """Create the pool. It connects on first use, so this works while the database is down.

        `claimer` must be unique to this process: it identifies the owner of a claim.
        """
        pool = await make_pool(url, application=application or cls.application, max_size=pool_size)
        return cls(pool, claimer, claim=claim)

    async def close(self) -> None:
        await self._pool.close()

    async def has_due(self, now: datetime) -> bool:
        """Return whether any row is due. `claim` may still return none: rows can be locked or not claimable yet."""
        with classified():
            return bool(await self._pool.fetchval(self._sql.has_due, now))

    async def claim(self, now: datetime, limit: int) -> list[C]:
        """Claim up to `limit` due rows until `now` plus the claim's duration. Each claim counts as a try."""
        until = now + self._claim
        with classified():
            rows = await self._pool.fetch(self._sql.claim, now, limit, self._claimer, until)
        return [self._read(row, until) for row in rows]

    async def retry(self, row: C, at: datetime, error: str) -> bool:
        """Queue the row again, due at `at`. The try counts. Returns False if the claim was lost."""
        return await self._settle(
            row, "status = 'queued', next_attempt_at = $4, last_error = $5", at, error[:_LONGEST_ERROR]
        )

    async def give_back(self, row: C, at: datetime, reason: str | None) -> bool:
        """Queue the row again, due at `at`. The try does not count. Returns False if the claim was lost."""
        return await self._settle(
            row,
            "status = 'queued', next_attempt_at = $4, last_error = coalesce($5, last_error), attempts = attempts - 1",
            at,
            reason and reason[:_LONGEST_ERROR],
        )

    async def fail(self, row: C, error: str) -> bool:
        """Mark the row as failed until an operator requeues it. Returns False if the claim was lost."""
        return await self._settle(row, "status = 'failed', last_error = $4", error[:_LONGEST_ERROR])

    async def depth(self, now: datetime) -> Depth:
        with classified():
            row = await self._pool.fetchrow(self._sql.depth, now)
        return Depth(row["open"], row["oldest_due"]) if row is not None else Depth(0, None)

    async def list(
        self, *, status: str | None, kind: str | None = None, customer_id: str | None = None, limit: int = 100
    ) -> Sequence[dict[str, Any]]:
        """Return rows for an operator, newest first, without their contents."""
        with classified():
            return [dict(row) for row in await self._pool.fetch(self._sql.list, status, kind, customer_id, limit)]

    async def requeue(
        self, now: datetime, *, keys: Sequence[str] | None, kind: str | None = None, limit: int = 1000
    ) -> Sequence[str]:
        """Queue failed rows again with their tries reset to 0. Returns the keys of these rows.

        `keys` None selects failed rows of any key, the oldest first, up to `limit`.
        """
        with classified():
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(self._sql.requeue, keys, kind, limit, now)
                await connection.execute("SELECT pg_notify($1, '')", self.queue.outbox.channel)
        return [row["key"] for row in rows]

    async def _settle(self, row: C, assignments: str, *values: object) -> bool:
        """Update a claimed row; return False if the claim was lost. Parameters of `assignments` start at $4."""
        with classified():
            done = await self._pool.execute(
                self._sql.settle.format(assignments), row.key, self._claimer, row.attempts, *values
            )
        return str(done) == "UPDATE 1"

    @abstractmethod
    def _read(self, row: asyncpg.Record, until: datetime) -> C: ...
