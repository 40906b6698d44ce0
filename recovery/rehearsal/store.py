"""The store of a rehearsal: reads one snapshot without locks, writes nothing, and remembers what would be written.

What one event of the rehearsal would write, the next one reads, as in a batch of the worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
from pydantic import SecretStr

from schemas.fast_row import replace
from schemas.record import Source
from schemas.references import References
from schemas.state import ROW_TYPES, Key, Row
from sinks.postgres import loading
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import BY_ROW, OUTBOXES, OutboxRow
from sinks.postgres.pool import SessionTimeouts, connect
from sinks.postgres.rows import Flush, LedgerRow
from sinks.postgres.store import Store, Transaction

_BOUNDS = SessionTimeouts(statement_s=30.0, lock_s=1.0, idle_in_transaction_s=600.0)
_QUEUED = {
    outbox.name: f"SELECT {outbox.key} FROM {outbox.table.fullname} WHERE {outbox.key} = ANY($1::text[])"  # noqa: S608  # only constants
    for outbox in OUTBOXES
}


@dataclass(slots=True)
class Effects:
    """What the rehearsed events would write."""

    ledger: dict[str, LedgerRow] = field(default_factory=dict)
    """By event id, in the order of the events."""
    outbox: list[OutboxRow] = field(default_factory=list)
    """Rows whose key no earlier event has queued."""


class RehearsalStore(Store):
    """A Store whose transactions write nothing. For one rehearsal; not for concurrent use."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Takes a connection with an open read-only transaction instead of a pool."""
        self._session = connection
        self.effects = Effects()
        self._rows: dict[tuple[type[Row], Key], Row | None] = {}
        self._keys: set[tuple[str, str]] = set()

    @classmethod
    @asynccontextmanager
    async def on(cls, url: SecretStr) -> AsyncIterator[RehearsalStore]:
        """Opens a read-only transaction, and ends it after the block. Raises StoreUnavailable, InvalidSettings."""
        session = await connect(url, application="billing-rehearsal", bounds=_BOUNDS)
        try:
            with classified():
                await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield cls(session)
            with classified():
                await session.execute("ROLLBACK")
        finally:
            session.terminate()

    @asynccontextmanager
    async def transaction(self, locks: Iterable[tuple[str, int]]) -> AsyncIterator[Transaction]:
        """Takes no locks: nothing is written, so no other writer has to wait."""
        del locks
        yield _RehearsedTransaction(self._session, self)

    async def close(self) -> None:
        """Does nothing: `on` ends the connection."""

    def overlay(self, stored: Sequence[Row]) -> list[Row]:
        """Returns the rows as the rehearsed events left them, and the rows that they made."""
        kept: list[Row] = [row for row in stored if (type(row), row.key) not in self._rows]
        return kept + [row for row in self._rows.values() if row is not None]

    async def take(self, flush: Flush) -> None:
        """Remembers what a transaction would write."""
        for entry in flush.ledger:
            first = self.effects.ledger.get(entry.event_id, entry)  # what the ledger keeps of it, as in the store
            source = first.source if entry.source == Source.IMPORT else entry.source
            kept = replace(entry, source=source, received_at=first.received_at or entry.received_at)
            self.effects.ledger[entry.event_id] = kept
        for kind in ROW_TYPES:
            new, altered, removed = flush.known.changed(kind)
            self._rows |= {(kind, row.key): row for row in (*new, *altered)}
            self._rows |= dict.fromkeys(((kind, row.key) for row in removed), None)
        for name in {BY_ROW[type(row)].name for row in flush.outbox}:
            rows = [row for row in flush.outbox if BY_ROW[type(row)].name == name]
            keys = [getattr(row, BY_ROW[type(row)].key) for row in rows]
            with classified():
                found = await self._session.fetch(_QUEUED[name], keys)
            self._keys |= {(name, record[0]) for record in found}
            for row, key in zip(rows, keys, strict=True):
                if (name, key) not in self._keys:
                    self._keys.add((name, key))
                    self.effects.outbox.append(row)


class _RehearsedTransaction(Transaction):
    def __init__(self, session: Any, store: RehearsalStore) -> None:
        super().__init__(session)
        self._store = store

    async def seen(self, event_ids: Sequence[str]) -> dict[str, str]:
        ledger = self._store.effects.ledger
        return await super().seen(event_ids) | {id_: ledger[id_].outcome for id_ in event_ids if id_ in ledger}

    async def imported(self, event_ids: Sequence[str]) -> dict[str, datetime | None]:
        ledger = self._store.effects.ledger
        rehearsed = [ledger[id_] for id_ in event_ids if id_ in ledger and ledger[id_].source == Source.IMPORT]
        return {row.event_id: row.received_at for row in rehearsed} | await super().imported(event_ids)

    async def braked(self, group: str, code_version: str) -> str | None:  # noqa: ARG002  # a rehearsal is never braked
        return None

    async def advance(self, group: str, topic: str, reached: Mapping[int, int]) -> None:
        """Does nothing: a rehearsal has no position."""

    async def load(self, refs: References) -> list[Row]:
        with classified():
            stored = await loading.load(self._connection, refs, queries=loading.WITHOUT_LOCKS)
        return self._store.overlay(stored)

    async def flush(self, flush: Flush) -> None:
        await self._store.take(flush)
