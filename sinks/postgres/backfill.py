"""Gives old rows a new meaning on a live system: in batches, each in its own short transaction, resumable.

`billing migrate` runs the backfills after the revisions. `billing.backfills` has the progress, so an interrupted one
continues after its last batch. Add a backfill to BACKFILLS; docs/architecture.md has the recipe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
import structlog
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from schemas.errors import Conflict, StoreUnavailable
from sinks.postgres import tables
from sinks.postgres.access_backfill import ORGANIZATIONS_WORK, SUBSCRIPTIONS_WORK
from sinks.postgres.failures import classified
from sinks.postgres.ownership import NOTE_OBJECTS, WITHOUT_CUSTOMER
from sinks.postgres.payment_backfill import join_payments
from sinks.postgres.pool import Session
from sinks.postgres.users_backfill import ADD_WORK, RIGHT_WORK, SHARED

log = structlog.get_logger(__name__)

BATCH = 1000
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy
_LOG_EVERY = 50
_MOST_TRIES = 100
_PAUSE_S = 1.0

_STATE = "SELECT after, rows FROM billing.backfills WHERE name = $1 AND done_at IS NULL"
_NAMES = "SELECT name FROM billing.backfills WHERE done_at IS NOT NULL"
_BEGIN = "INSERT INTO billing.backfills (name, started_at) VALUES ($1, now()) ON CONFLICT (name) DO NOTHING"
_ADVANCE = "UPDATE billing.backfills SET after = $2::jsonb, rows = rows + $3 WHERE name = $1"
_END = "UPDATE billing.backfills SET done_at = now() WHERE name = $1"


@dataclass(frozen=True, slots=True)
class Backfill:
    """One change of all rows of a table, in the order of its primary key.

    `work` is an INSERT, UPDATE or DELETE that joins `batch`, which has the columns of the primary key. It must have the
    same result when it is run twice, and when the new code has already written the row: the system is live.
    """

    name: str
    """Unique and never changed: it identifies the progress. Begin it with the number of its revision."""
    table: Table
    work: str
    where: str = "true"
    """Which rows `t` need the work."""
    each: Callable[[Any, Sequence[str]], Awaitable[None]] | None = None
    """Instead of `work`, for a table with one key column: does the work for the rows with these keys, in the batch's
    transaction, and locks what it changes."""

    def keys(self, *, is_first: bool) -> str:
        """Returns the SQL of the keys of one batch for `each`, with the arguments of `statement`."""
        (column,) = self.table.primary_key
        return (
            f'SELECT t."{column.name}" FROM {self.table.fullname} t '  # noqa: S608  # only constants from code
            f"""WHERE {"true" if is_first else f't."{column.name}" > $1'} AND ({self.where}) """
            f'ORDER BY t."{column.name}" LIMIT {BATCH}'
        )

    def statement(self, *, is_first: bool) -> str:
        """Returns the SQL of one batch. $1, $2 … are the key after which it begins; the first batch has no argument.

        It locks the rows in key order, as the worker does, so that the two cannot deadlock.
        """
        columns = list(self.table.primary_key)
        keys = ", ".join(f't."{column.name}"' for column in columns)
        after = ", ".join(f"${at}::{column.type.compile(_DIALECT)}" for at, column in enumerate(columns, 1))
        named = ", ".join(f'"{column.name}"' for column in columns)
        newest = ", ".join(f'"{column.name}" DESC' for column in columns)
        return (
            f"WITH batch AS (SELECT {keys} FROM {self.table.fullname} t "  # noqa: S608  # only constants from code
            f"WHERE {'true' if is_first else f'({keys}) > ({after})'} AND ({self.where}) "
            f"ORDER BY {keys} LIMIT {BATCH} FOR UPDATE), work AS ({self.work}) "
            f"SELECT {named}, count(*) OVER () AS rows FROM batch ORDER BY {newest} LIMIT 1"
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """The key of the last row of a batch, and the number of its rows."""

    last: Sequence[Any]
    rows: int


_NOT_FAILED = ("test mode: mail.send_test_mode is off", "the customer has unsubscribed from these mails")
"""Errors of mails that were kept back on purpose and stored as failed before revision 0011."""

# New records have no address (AuditEntry.values). In JSON, a text ends at a quote or backslash.
_ADDRESS = r"""'[^\s@<>"''(),;:\\]+@[^\s@<>"''(),;:\\]+', '…', 'g'"""
_WITHOUT_ADDRESSES = f"""UPDATE billing.console_actions a SET note = regexp_replace(a.note, {_ADDRESS}),
    filter = regexp_replace(a.filter::text, {_ADDRESS})::jsonb,
    result = regexp_replace(a.result::text, {_ADDRESS})::jsonb
FROM batch WHERE a.action_key = batch.action_key"""  # noqa: S608 - a constant

BACKFILLS: tuple[Backfill, ...] = (
    Backfill(
        name="0011_withheld_mails",
        table=tables.emails,
        work="UPDATE billing.emails e SET status = 'withheld' FROM batch WHERE e.email_key = batch.email_key",
        where=f"t.status = 'failed' AND t.last_error IN ({', '.join(repr(error) for error in _NOT_FAILED)})",
    ),
    Backfill(
        name="0012_subscriptions",
        table=tables.subscriptions,
        work=SUBSCRIPTIONS_WORK,
        where="t.items_version = '' AND t.version <> ''",
    ),
    Backfill(
        name="0012_organizations", table=tables.organizations, work=ORGANIZATIONS_WORK, where="t.access_reason = ''"
    ),
    Backfill(name="0013_payments", table=tables.payments, work="", each=join_payments),
    Backfill(name="0018_users", table=tables.organizations, work=ADD_WORK, where="t.account <> ''"),
    Backfill(name="0018_shared_users", table=tables.users, work=RIGHT_WORK, where=SHARED),
    Backfill(name="0026_event_objects", table=tables.events, work=NOTE_OBJECTS, where=WITHOUT_CUSTOMER),
    Backfill(
        name="0028_actions",
        table=tables.console_actions,
        work=_WITHOUT_ADDRESSES,
        where="concat(t.note, t.filter, t.result) LIKE '%@%'",
    ),
)


async def run_backfills(connection: Session, backfills: Sequence[Backfill] | None = None) -> dict[str, int]:
    """Completes the backfills and returns the number of rows of those that had work, by name.

    Uses at most half of the server's time for one connection: after each batch it pauses as long as the batch took.
    Raises StoreUnavailable.
    """
    worked: dict[str, int] = {}
    with classified():
        done = {row["name"] for row in await connection.fetch(_NAMES)}
        for backfill in BACKFILLS if backfills is None else backfills:
            if backfill.name not in done:
                rows = await _complete(connection, backfill)
                worked |= {backfill.name: rows} if rows else {}
    return worked


async def open_backfills(connection: Session, backfills: Sequence[Backfill] | None = None) -> list[str]:
    """Returns the names of the backfills that are not complete. Raises StoreUnavailable."""
    with classified():
        done = {row["name"] for row in await connection.fetch(_NAMES)}
    return [one.name for one in (BACKFILLS if backfills is None else backfills) if one.name not in done]


async def _complete(connection: Session, backfill: Backfill) -> int:
    await connection.execute(_BEGIN, backfill.name)
    found = await connection.fetchrow(_STATE, backfill.name)
    if found is None:
        return 0
    after: Sequence[Any] | None = orjson.loads(found["after"]) if found["after"] is not None else None
    rows, batches = 0, 0
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        last = await _batch(connection, backfill, after)
        if last is None:
            await connection.execute(_END, backfill.name)
            if rows:
                log.info("backfill complete", action="backfill.done", backfill=backfill.name, rows=rows)
            return rows
        after, rows, batches = last.last, rows + last.rows, batches + 1
        if batches % _LOG_EVERY == 0:
            log.info("backfill continues", action="backfill.progress", backfill=backfill.name, rows=rows, after=after)
        await asyncio.sleep(loop.time() - began)


async def _batch(connection: Session, backfill: Backfill, after: Sequence[Any] | None) -> Batch | None:
    """Runs one batch and stores the progress with it. Returns its last key and its rows, None if there was no row."""
    for attempt in range(_MOST_TRIES):
        try:
            async with connection.transaction():
                done = await _work(connection, backfill, after)
                if done is not None:
                    await connection.execute(_ADVANCE, backfill.name, orjson.dumps(done.last).decode(), done.rows)
                return done
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, Conflict) as error:
            action, name = "backfill.retry", backfill.name
            log.info("backfill retries", action=action, backfill=name, tries=attempt + 1, error=str(error))
            await asyncio.sleep(_PAUSE_S)
    raise StoreUnavailable(f"backfill {backfill.name}: rows stayed locked for {_MOST_TRIES} tries; run it again")


async def _work(connection: Session, backfill: Backfill, after: Sequence[Any] | None) -> Batch | None:
    is_first = after is None
    if backfill.each is not None:
        keys = [record[0] for record in await connection.fetch(backfill.keys(is_first=is_first), *(after or ()))]
        if not keys:
            return None
        await backfill.each(connection, keys)
        return Batch([keys[-1]], len(keys))
    last = await connection.fetchrow(backfill.statement(is_first=is_first), *(after or ()))
    return Batch([last[name] for name in _key_names(backfill)], last["rows"]) if last is not None else None


def _key_names(backfill: Backfill) -> list[str]:
    return [column.name for column in backfill.table.primary_key]
