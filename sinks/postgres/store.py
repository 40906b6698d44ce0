"""Runs a batch's transaction: loads the known rows and writes ledger, state, outboxes and dead letters.

Uses asyncpg directly, because this is the hot path. All errors raised here are StoreUnavailable, Conflict or
StoreRefused.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg
from pydantic import SecretStr

from schemas.errors import Conflict, StoreUnavailable
from schemas.record import Source
from schemas.references import Ref, References
from schemas.state import ROW_TYPES, Row, Timer
from schemas.statuses import TimerStatus
from sinks.postgres import loading, ownership, positions, tables
from sinks.postgres.erasure import clear_events, count_state, erase
from sinks.postgres.failures import DRIVER_ERRORS, classified
from sinks.postgres.new_tables import NewTables
from sinks.postgres.outboxes import OUTBOXES, TIMERS_CHANNEL
from sinks.postgres.planning import PLANNING
from sinks.postgres.pool import CONNECT_TIMEOUT_S, SessionTimeouts, make_pool
from sinks.postgres.positions import DatabaseIdentity, Position
from sinks.postgres.rows import DeadLetterRow, Erased, Flush, LedgerRow
from sinks.postgres.statements import RowShape, as_texts

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]


_LEDGER = RowShape(tables.events, LedgerRow, ["event_id"])
_LETTERS = RowShape(tables.dead_letters, DeadLetterRow, ["consumer_group", "topic", "partition", "offset"])


_ARCHIVED = ("payload_key", "payload_place", "payload_pruned_at")


def _overwrite(shape: RowShape[Any], **instead: str) -> str:
    """Returns DO UPDATE SET … with the new value of each column except the key. `instead` replaces values by column."""
    values = {name: f'excluded."{name}"' for name in shape.names if name not in shape.key} | instead
    return "DO UPDATE SET " + ", ".join(f'"{name}" = {value}' for name, value in values.items())


_IMPORTED = f"""
SELECT event_id, received_at FROM billing.events WHERE event_id = ANY($1::text[]) AND source = '{Source.IMPORT}'
"""  # noqa: S608  # only a constant
_SEEN = "SELECT event_id, outcome FROM billing.events WHERE event_id = ANY($1::text[])"
_BRAKED = """
SELECT message FROM billing.brakes WHERE consumer_group = $1 AND code_version = $2 AND released_at IS NULL
"""
# The time is read after the last lock was taken: the aggregate comes first.
_LOCK = "SELECT clock_timestamp(), count(pg_advisory_xact_lock(id)::text) FROM unnest($1::bigint[]) AS id"
# Only an event that is waiting or dead can get another verdict.
_WRITE_LEDGER = _LEDGER.insert(
    "(event_id) "
    + _overwrite(
        _LEDGER,
        attempts="t.attempts + excluded.attempts",
        received_at="coalesce(t.received_at, excluded.received_at)",
        # An import that appends an event of this system again does not make it one of the time before (streams/flush.py
        # keeps the source of those).
        source=f"CASE WHEN excluded.source = '{Source.IMPORT}' THEN t.source ELSE excluded.source END",
        payload="coalesce(excluded.payload, t.payload)",
        # A payload that is stored again is not in the archive any longer: its file is read by no key.
        **{name: f"CASE WHEN excluded.payload IS NULL THEN t.{name} END" for name in _ARCHIVED},
    )
    + " WHERE t.outcome IN ('waiting', 'dead')"
)
_WRITE_LETTERS = _LETTERS.insert(
    "(consumer_group, topic, partition, \"offset\") "
    + _overwrite(
        _LETTERS,
        attempts="t.attempts + excluded.attempts",
        first_failed_at="t.first_failed_at",
        status="'open'",
        closed_at="NULL",
        closed_by="NULL",
        replay_begun_at="NULL",
    )
)  # fmt: skip
_RESOLVE_LETTERS = """
UPDATE billing.dead_letters SET status = 'resolved', closed_at = now(), closed_by = coalesce(closed_by, 'worker')
WHERE event_id = ANY($1::text[]) AND status IN ('open', 'replayed')
"""
_BAR = (
    "UPDATE billing.events SET payload = NULL, changes = NULL, payload_key = NULL, payload_place = NULL "
    "WHERE event_id = ANY($1::text[])"
)
_QUEUES = {outbox: RowShape(outbox.table, outbox.row_type, [outbox.key]) for outbox in OUTBOXES}
# Each key is queued only once, even after the row was delivered.
_QUEUE = {outbox: shape.insert(f"({outbox.key}) DO NOTHING") for outbox, shape in _QUEUES.items()}
# Only a customer's open timers are loaded, so a new timer may have the key of one that is done or cancelled: that row
# stays as it is (effects.StartTimer). A pending timer is moved.
_START_TIMERS = loading.SHAPES[Timer].insert(
    "(timer_key) " + _overwrite(loading.SHAPES[Timer]) + " WHERE t.status = 'pending'"
)
_INSERTS = {kind: shape.insert("DO NOTHING") for kind, shape in loading.SHAPES.items()}
_UPDATES = {kind: shape.update() for kind, shape in loading.SHAPES.items() if set(shape.names) - set(shape.key)}
_DELETES = {kind: shape.delete() for kind, shape in loading.SHAPES.items()}


class Store:
    """The worker's pool of connections. The entry point opens and closes it."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._new_tables = NewTables()

    @classmethod
    async def connect(cls, url: SecretStr, *, pool_size: int, bounds: SessionTimeouts | None = None) -> Store:
        """Opens the pool and one connection, so that a wrong address fails here.

        Raises StoreUnavailable, InvalidSettings.
        """
        pool = await make_pool(
            url, application="billing-worker", min_size=1, max_size=pool_size, bounds=bounds, parameters=PLANNING
        )
        return cls(pool)

    async def close(self) -> None:
        """Waits up to CONNECT_TIMEOUT_S seconds for connections in use, then ends them."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def transaction(self, locks: Iterable[tuple[str, int]]) -> AsyncIterator[Transaction]:
        """Runs the block in a transaction: commits at its end, rolls back on any exception.

        `locks` are the (topic, partition) pairs of the batch. They exclude a worker that lost a partition and the
        partition's new owner from each other, so the result of `seen` stays valid until the commit. If the commit
        raises StoreUnavailable, it may or may not have happened: call `seen` again.
        """
        with classified():
            connection = await self._pool.acquire(timeout=CONNECT_TIMEOUT_S)
        try:
            try:
                with classified():
                    await self._new_tables.analyze(connection)
                    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                    now = await connection.fetchval(_LOCK, sorted({_lock_id(*lock) for lock in locks}))
                work = Transaction(connection, now)
                yield work
            except BaseException:
                await _abandon(connection)
                raise
            with classified():
                ended = await connection.execute("ROLLBACK" if work.is_broken else "COMMIT")
            # After a failed statement, Postgres answers COMMIT with a rollback and raises no error.
            if ended != "COMMIT":
                raise StoreUnavailable("the transaction was rolled back: something in it had failed")
        finally:
            await self._release(connection)

    async def _release(self, connection: Connection) -> None:
        try:
            await self._pool.release(connection, timeout=CONNECT_TIMEOUT_S)
        except DRIVER_ERRORS:
            # The result of the transaction is already known. Only the connection is lost, and the pool has closed it.
            return


class Transaction:
    """Reads and writes in one transaction. After any error, leave the block and begin a new transaction."""

    def __init__(self, connection: Connection, now: datetime | None = None) -> None:
        self._connection = connection
        self._now = now
        self.is_broken = False
        """True if the transaction may contain only part of a flush. It is rolled back then."""

    async def now(self) -> datetime:
        """Returns Postgres' time (UTC) when this transaction had its locks, whatever this machine's clock shows."""
        if self._now is None:
            with classified():
                self._now = await self._connection.fetchval("SELECT clock_timestamp()")
        return self._now

    async def seen(self, event_ids: Sequence[str]) -> dict[str, str]:
        """Returns the outcome of each of these events that is in the ledger, by id."""
        with classified():
            records = await self._connection.fetch(_SEEN, list(event_ids))
        return {record["event_id"]: record["outcome"] for record in records}

    async def imported(self, event_ids: Sequence[str]) -> dict[str, datetime | None]:
        """Returns those of these events that `billing import` has appended first, whatever appended them again.

        Their values are the times at which it read them (UTC), None where the ledger could not keep that.
        """
        with classified():
            found = await self._connection.fetch(_IMPORTED, list(event_ids))
        return {record["event_id"]: record["received_at"] for record in found}

    async def braked(self, group: str, code_version: str) -> str | None:
        """Returns why the brake stops this consumer group at this code version, or None (sinks/postgres/brakes.py)."""
        with classified():
            found: str | None = await self._connection.fetchval(_BRAKED, group, code_version)
        return found

    async def positions(self, group: str, topic: str, partitions: Iterable[int]) -> dict[int, Position]:
        """Returns the group's positions according to this database (sinks/postgres/positions.py)."""
        with classified():
            return await positions.read(self._connection, group, topic, sorted(partitions))

    async def advance(self, group: str, topic: str, reached: Mapping[int, int]) -> None:
        """Moves the group's positions forward over records that need nothing else."""
        with classified():
            await positions.advance(self._connection, group, topic, reached)

    async def rewind(self, group: str, topic: str, moved: Mapping[int, Position]) -> None:
        """Sets the group's positions, and withholds the mails that are due, unless no partition is read again."""
        with classified():
            for partition, position in sorted(moved.items()):
                await positions.rewind(self._connection, group, topic, partition, position)
            if any(position.reread_until is not None for position in moved.values()):
                await positions.withhold_due(self._connection)

    async def bind(self, group: str, topic: str, topic_id: str, partitions: Iterable[int]) -> None:
        """Notes the topic's id for positions that have none yet."""
        with classified():
            await positions.bind(self._connection, group, topic, topic_id, sorted(partitions))

    async def restart(self, group: str, topic: str, topic_id: str, begins: Mapping[int, int]) -> None:
        """Sets the group's positions to the first offsets of another topic with the same name."""
        with classified():
            await positions.restart(self._connection, group, topic, topic_id, begins)

    async def note_gap(self, group: str, topic: str, partitions: Iterable[int]) -> None:
        """Notes that Kafka deleted records of these partitions before the group had read them."""
        with classified():
            await positions.note_gap(self._connection, group, topic, sorted(partitions))

    async def identity(self) -> DatabaseIdentity | None:
        """Returns the id of the database, None if `billing migrate` has not given it one."""
        with classified():
            return await positions.identity(self._connection)

    async def load(self, refs: References) -> list[Row]:
        """Returns the rows that these references reach (see References), locked until the end of the transaction."""
        with classified():
            return await loading.load(self._connection, refs)

    async def erased(self, customers: Iterable[Ref], named: Iterable[Ref]) -> Erased:
        """Returns which of these customers, and of the owners of these Stripe objects, were erased."""
        with classified():
            return await loading.load_erased(self._connection, customers, named)

    async def flush(self, flush: Flush) -> None:
        """Writes everything in the same order in every worker. Event ids must be distinct.

        Raises Conflict if another transaction has written one of the events or rows since this one read them;
        StoreRefused, StoreUnavailable.
        """
        with classified():
            erased = flush.erasure
            held = (
                await count_state(self._connection, erased.account, erased.customer_id, erased.organization_id)
                if erased is not None
                else {}
            )
            await self._count(_WRITE_LEDGER, _LEDGER, flush.ledger, "are applied already")
            if flush.objects:
                await ownership.note_objects(self._connection, flush.objects)
            for kind in ROW_TYPES:
                new, altered, removed = flush.known.changed(kind)
                if kind is Timer and (altered or removed):
                    await self._lock_timers([flush.known.loaded(timer) for timer in (*altered, *removed)])
                await self.write_changes(kind, new, altered, removed)
            woken = []
            if any(
                timer.status is TimerStatus.PENDING for timers in flush.known.changed(Timer)[:2] for timer in timers
            ):
                woken.append(TIMERS_CHANNEL)
            for outbox, shape in _QUEUES.items():
                rows = [row for row in flush.outbox if isinstance(row, outbox.row_type)] if flush.outbox else ()
                if await self._run(_QUEUE[outbox], shape, rows):
                    woken.append(outbox.channel)
            await self._run(_WRITE_LETTERS, _LETTERS, flush.dead_letters)
            if flush.revived:
                await self._connection.execute(_RESOLVE_LETTERS, sorted(flush.revived))
            if flush.reread:
                await positions.withhold(self._connection, flush.reread)
            for topic, reached in flush.reached.items():
                await positions.advance(self._connection, flush.group, topic, reached)
            if flush.barred:
                await self._connection.execute(_BAR, sorted(flush.barred))
            if flush.owners and flush.owners_at is not None:
                found = await ownership.keep_owners(self._connection, flush.owners)
                await clear_events(self._connection, "", found, [], flush.owners_at)
            if erased is not None:
                await erase(self._connection, erased, held)
            if woken:
                await self._connection.execute("SELECT pg_notify(channel, '') FROM unnest($1::text[]) channel", woken)

    async def _lock_timers(self, loaded: Sequence[Row | None]) -> None:
        """Locks timers that were loaded without a lock. Raises Conflict if the scheduler has fired one meanwhile."""
        shape = loading.SHAPES[Timer]
        known = {row.key: row for row in loaded if row is not None}
        keys = as_texts([key[0] for key in known])
        records = await self._connection.fetch(loading.LOCK_TIMERS, keys)
        now = {row.key: row for row in map(shape.row, records)}
        if now != known or len(known) != len(loaded):
            self.is_broken = True
            raise Conflict("timers: another transaction has changed one of these rows")

    async def write_changes(
        self, kind: type[Row], new: Sequence[Row], altered: Sequence[Row], removed: Sequence[Row]
    ) -> None:
        """Writes the rows that Known.changed returns. Raises Conflict if another transaction has written one."""
        shape = loading.SHAPES[kind]
        # Removed rows first: a payment's row that contains them has their unique columns.
        await self._count(_DELETES[kind], shape, removed, "are gone")
        if kind is Timer:
            await self._run(_START_TIMERS, shape, new)
        else:
            await self._count(_INSERTS[kind], shape, new, "exist already")
        if kind in _UPDATES:
            await self._count(_UPDATES[kind], shape, altered, "are gone")

    async def _count(self, statement: str, shape: RowShape[Any], rows: Sequence[Any], otherwise: str) -> None:
        written = await self._run(statement, shape, rows)
        if written != len(rows):
            self.is_broken = True
            raise Conflict(f"{shape.table.name}: {len(rows) - written} of {len(rows)} rows {otherwise}")

    async def _run(self, statement: str, shape: RowShape[Any], rows: Sequence[Any]) -> int:
        """Returns the number of rows written."""
        if not rows:
            return 0
        with classified(shape.arguments_named):
            tag = await self._connection.execute(statement, *shape.arguments(rows))
        return int(tag.rpartition(" ")[2])


async def _abandon(connection: Connection) -> None:
    """Rolls back. If the server cannot be reached, closes the connection, which has the same effect."""
    try:
        await connection.execute("ROLLBACK")
    except DRIVER_ERRORS:
        # A connection that the server has closed has left the pool already, and `terminate` raises.
        with suppress(asyncpg.InterfaceError):
            connection.terminate()


def _lock_id(topic: str, partition: int) -> int:
    """Returns the 64-bit id of a partition's advisory lock. Partitions with equal ids only wait for each other."""
    digest = hashlib.blake2b(f"{topic}/{partition}".encode(), digest_size=8, person=b"billing").digest()
    return int.from_bytes(digest, signed=True)
