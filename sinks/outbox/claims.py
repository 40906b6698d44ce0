"""Claims, settles and lists the rows of one outbox table. The worker queues rows, dispatchers claim them.

    queued ──claim──▶ busy ──▶ done
      ▲  ▲             │ │└──▶ withheld   on purpose, with the reason (truth.py)
      │  └── retry ────┘ └───▶ failed ──requeue──▶ queued
      └──── claim expired (its dispatcher died)

While a row is busy, `next_attempt_at` is the time its claim expires, so one condition and one index find both due rows
and expired claims. A claim is identified by `claimed_by`, `attempts` and the status: a dispatcher that lost its claim
can no longer change the row, and an erasure that changed the status wins. Each table has its own names for "busy" and
"done" (sinks/postgres/outboxes.py).

All times are Postgres' own: dispatchers whose clocks differ agree on what is due and on who holds a claim. `ahead`
moves that clock, for local systems and tests.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import asyncpg
import orjson
from pydantic import SecretStr

from schemas.errors import StoreUnavailable
from schemas.storable import reason_text
from sinks.outbox import outages, setback
from sinks.outbox.marks import Marks
from sinks.outbox.setback import Setback
from sinks.outbox.statements import Queue, Statements
from sinks.postgres import audit_log
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import Outbox
from sinks.postgres.pool import make_pool
from sinks.postgres.tables import HELD

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

CLAIM = timedelta(minutes=10)
"""Duration of a claim. Dispatchers finish a claimed batch before it expires, so a live dispatcher keeps its claims."""

_LONGEST_ERROR = 500
"""Characters stored in `last_error`."""

Ahead = Callable[[], timedelta]
"""Returns how far the outbox's clock is ahead of Postgres' clock; 0 outside local systems and tests."""


def not_ahead() -> timedelta:
    return timedelta(0)


class Claimed(Protocol):
    """A claimed row: the attributes needed to settle it."""

    @property
    def key(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def last_error(self) -> str | None: ...
    @property
    def now(self) -> datetime: ...
    @property
    def deadline(self) -> float: ...
    @property
    def is_shadow(self) -> bool: ...


C = TypeVar("C", bound=Claimed)

_Kind = tuple[str | None, tuple[str, ...]]
"""What a delivery stores: the new status, if it is not the usual one, and the names of the columns."""


@dataclass(frozen=True, slots=True)
class Depth:
    """The number of open rows, the seconds that the oldest due one has been due, and since when rows are queued."""

    open: int
    oldest_due_s: float
    oldest_queued_at: datetime | None = None


def claims_of(outbox: Outbox) -> type[Claims[Any]]:
    """Returns the claims that the outbox declares."""
    module, _, name = outbox.claims.partition(":")
    found: type[Claims[Any]] = getattr(import_module(module), name)
    return found


def new_claimer() -> str:
    """Returns a name that no other process uses: it identifies the owner of a claim, also after a restart."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Claims(ABC, Generic[C]):
    """An outbox table as one dispatcher uses it. Every method raises StoreUnavailable if Postgres does not answer."""

    queue: ClassVar[Queue]
    application: ClassVar[str]
    _sql: ClassVar[Statements]
    _key: ClassVar[str]
    """The column of the key."""

    def __init_subclass__(cls) -> None:
        cls._sql, cls._key = Statements(cls.queue), cls.queue.outbox.key

    def __init__(self, pool: asyncpg.Pool, claimer: str, *, claim: timedelta | None = None, ahead: Ahead = not_ahead):
        self._pool = pool
        self.claimer = claimer
        self._claim = claim or self.queue.claim
        self._ahead = ahead
        self.is_shadow = False
        self.in_flight: Callable[[], int] = lambda: 0
        """Returns the number of deliveries that have no result yet, for `done`."""
        self._marks: Marks[_Kind, Mapping[str, object]] = Marks(self._mark, lambda: self.in_flight())
        self._setback, self._reading_positions = Setback(), asyncio.Lock()

    @classmethod
    async def connect(
        cls,
        url: SecretStr,
        *,
        claimer: str,
        pool_size: int = 4,
        claim: timedelta | None = None,
        application: str | None = None,
        ahead: Ahead = not_ahead,
        keeps_plans: bool = False,
    ) -> Self:
        """Create the pool. It connects on first use, so this works while the database is down.

        `claimer` must be unique to this process: it identifies the owner of a claim. `keeps_plans` is for
        dispatchers. All else (an operator's list, a link in a mail) is planned each time, for its values.
        """
        application = application or cls.application
        pool = await make_pool(url, application=application, max_size=pool_size, keeps_plans=keeps_plans)
        return cls(pool, claimer, claim=claim, ahead=ahead)

    async def close(self) -> None:
        await self._pool.close()

    @property
    def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool, for queries that belong to other tables."""
        return self._pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection, outside any transaction."""
        with classified():
            async with self._pool.acquire() as connection:
                yield connection

    async def has_due(self) -> bool:
        """Return whether any row is due. `claim` may still return none: rows can be locked or not claimable yet.

        Also notes whether shadow mode is on, in `is_shadow`. Raises StoreUnavailable if the database was restored and
        no worker has noticed that yet (setback.py).
        """
        await self.check_not_restored()
        with classified():
            found = await self._pool.fetchrow(self._sql.has_due, self._ahead())
        self.is_shadow = found is not None and found["is_shadow"]
        return found is not None and found["due"]

    async def check_not_restored(self) -> None:
        """Raise StoreUnavailable if the database was restored and no worker has noticed that yet (setback.py)."""
        with classified():
            async with self._reading_positions:  # in turn: what one lane has read later is not behind
                is_behind = self._setback.is_in(map(dict, await self._pool.fetch(setback.READ)))
        if is_behind:
            raise StoreUnavailable(setback.REASON)

    async def claim(self, limit: int, *, avoid: Collection[str] = ()) -> list[C]:
        """Claim up to `limit` due rows for the claim's duration. Each claim counts as a try.

        `avoid` are kinds of rows that mails and calls leave for another claim.
        """
        deadline = time.monotonic() + self._claim.total_seconds()  # before the statement, so never too late
        with classified():
            rows = await self._pool.fetch(
                self._sql.claim, self._ahead(), limit, self.claimer, self._claim, *self._claim_values(avoid)
            )
        return [self._read(row, deadline) for row in rows]

    async def done(self, row: C, columns: Mapping[str, object], status: str | None = None) -> bool:
        """Mark the row as delivered and store `columns`. Returns False if the claim was lost.

        If it was lost, another dispatcher may deliver the row as well.
        """
        mark = {self._key: row.key, "attempts": row.attempts, "status": row.status, **columns}
        return await self._marks.add((status, tuple(columns)), row.key, mark)

    async def retry(self, row: C, after: timedelta, error: str) -> bool:
        """Queue the row again, due `after` this time. The try counts. Returns False if the claim was lost."""
        return await self._settle(row, self._sql.retry, self._ahead() + after, _stored(error))

    async def give_back(self, row: C, after: timedelta, reason: str | None) -> bool:
        """Queue the row again, due `after` this time. The try does not count. Returns False if the claim was lost."""
        return await self._settle(row, self._sql.give_back, self._ahead() + after, reason and _stored(reason))

    async def fail(self, row: C, error: str, columns: Mapping[str, object] | None = None) -> bool:
        """Mark the row as failed until an operator requeues it. Returns False if the claim was lost."""
        columns = columns or {}
        return await self._settle(row, self._sql.closed("failed", columns), _stored(error), *columns.values())

    async def withhold(self, row: C, reason: str, columns: Mapping[str, object] | None = None) -> bool:
        """Mark the row as not delivered on purpose. Returns False if the claim was lost.

        With the reason HELD also if shadow mode has ended: then the switch has held the row, or it is delivered later.
        """
        columns = columns or {}
        statement = self._sql.held(columns) if reason == HELD else self._sql.closed("withheld", columns)
        return await self._settle(row, statement, _stored(reason), *columns.values())

    async def depth(self) -> Depth:
        with classified():
            row = await self._pool.fetchrow(self._sql.depth, self._ahead())
        return Depth(row["open"], max(float(row["late"] or 0.0), 0.0), row["since"]) if row is not None else Depth(0, 0)

    async def list(
        self, *, status: str | None, kind: str | None = None, customer_id: str | None = None, limit: int = 100
    ) -> Sequence[dict[str, Any]]:
        """Return rows for an operator, newest first, without their contents."""
        with classified():
            return [dict(row) for row in await self._pool.fetch(self._sql.list, status, kind, customer_id, limit)]

    async def listed(
        self, *, status: str | None, kind: str | None = None, customer_id: str | None = None, limit: int = 100
    ) -> tuple[Sequence[dict[str, Any]], int]:
        """Return what `list` returns, and how many rows there are without the limit."""
        rows = await self.list(status=status, kind=kind, customer_id=customer_id, limit=limit)
        if len(rows) < limit:
            return rows, len(rows)
        with classified():
            return rows, await self._pool.fetchval(self._sql.count, status, kind, customer_id) or 0

    async def requeue(
        self,
        *,
        keys: Sequence[str] | None,
        kind: str | None = None,
        answer: str | None = None,
        until: datetime | None = None,
        limit: int = 1000,
        entry: AuditEntry | None = None,
    ) -> Sequence[str]:
        """Queue rows again with their tries reset to 0, and record `entry` with them. Returns the keys of these rows.

        `keys` selects failed and withheld rows. None selects failed rows of any key, the oldest first, up to `limit`;
        `answer` is a text that their last error contains, `until` the latest time of queueing. Erased rows stay.
        """
        with classified():
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(self._sql.requeue, keys, kind, limit, self._ahead(), answer, until)
                await connection.execute("SELECT pg_notify($1, '')", self.queue.outbox.channel)
                await _record(connection, entry, len(rows))
        return [row["key"] for row in rows]

    async def discard(
        self,
        *,
        keys: Sequence[str] | None,
        reason: str,
        kind: str | None = None,
        limit: int = 1000,
        entry: AuditEntry | None = None,
    ) -> Sequence[str]:
        """Withhold queued and failed rows with this reason, and record `entry` with them. Returns the keys.

        `keys` None: all, the oldest first.
        """
        with classified():
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(self._sql.discard, keys, kind, limit, _stored(reason))
                await _record(connection, entry, len(rows))
        return [row["key"] for row in rows]

    async def outages(self) -> Sequence[outages.PresentOutage]:
        """Return what dispatchers cannot reach at present, the oldest first."""
        async with self.connection() as connection:
            return await outages.present(connection, self.queue.outbox.name)

    async def _mark(self, kind: _Kind, rows: Collection[Mapping[str, object]]) -> Collection[str]:
        """Mark rows as delivered; return the keys of those whose claim was not lost."""
        statement = self._sql.done(*kind)
        with classified():
            values = orjson.dumps([*rows]).decode()
            found = await self._pool.fetch(statement, self.claimer, self._ahead(), values)
        return {row["key"] for row in found}

    async def _settle(self, row: C, statement: str, *values: object) -> bool:
        """Update a claimed row; return False if the claim was lost. `values` are the parameters from $5."""
        with classified():
            done = await self._pool.execute(statement, row.key, self.claimer, row.attempts, row.status, *values)
        return str(done) == "UPDATE 1"

    def _claim_values(self, avoid: Collection[str]) -> Sequence[object]:  # noqa: ARG002  # for outboxes of several kinds
        """Further parameters of the claim's statement, from $5."""
        return ()

    @abstractmethod
    def _read(self, row: asyncpg.Record, deadline: float) -> C: ...

    def _claimed(self, row: asyncpg.Record, deadline: float) -> dict[str, Any]:
        """Returns the fields that a claimed row of every outbox has, by name."""
        names = ("event_id", "account", "customer_id", "attempts", "last_error", "is_shadow")
        key = {"key": row[self._key], "now": row["claimed_at"], "deadline": deadline}
        return key | {name: row[name] for name in names}


def _stored(reason: str) -> str:
    """Returns the reason as `last_error` holds it: the other side's answer may have what Postgres refuses."""
    return reason_text(reason)[:_LONGEST_ERROR]


async def _record(connection: Connection, entry: AuditEntry | None, count: int) -> None:
    """Records an action that has changed something, in its transaction."""
    if entry is not None and count:
        await audit_log.record(connection, dataclasses.replace(entry, count=count))
