"""The store of a rebuild: writes all rows, but outbox rows get status `suppressed` and are never sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from sinks.postgres.failures import classified
from sinks.postgres.outboxes import OUTBOXES
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store, Transaction

_SUPPRESS = {
    outbox: f"UPDATE {outbox.table.fullname} SET status = 'suppressed' "  # noqa: S608  # only constants
    f"WHERE {outbox.key} = ANY($1::text[]) AND status = 'queued'"
    for outbox in OUTBOXES
}


class SuppressingStore(Store):
    """A Store that suppresses outbox rows in the transaction that inserts them: no dispatcher sees them as queued."""

    @asynccontextmanager
    async def transaction(self, locks: Iterable[tuple[str, int]]) -> AsyncIterator[Transaction]:
        async with super().transaction(locks) as work:
            suppressing = _SuppressingTransaction(work._connection)
            try:
                yield suppressing
            finally:
                work.is_broken = suppressing.is_broken


class _SuppressingTransaction(Transaction):
    async def flush(self, flush: Flush) -> None:
        await super().flush(flush)
        for outbox, statement in _SUPPRESS.items():
            keys = [getattr(row, outbox.key) for row in flush.outbox if isinstance(row, outbox.row_type)]
            if keys:
                with classified():
                    await self._connection.execute(statement, keys)
