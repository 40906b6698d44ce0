"""The store of a rebuild: writes all rows, but outbox rows get status `suppressed` and are never sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from sinks.postgres.failures import classified
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store, Transaction

_OUTBOXES = (("emails", "email_key"), ("stripe_calls", "call_key"), ("exports", "export_key"))
_SUPPRESS = {
    table: f"UPDATE billing.{table} SET status = 'suppressed' WHERE {key} = ANY($1::text[]) AND status = 'queued'"  # noqa: S608  # only constants
    for table, key in _OUTBOXES
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
        queued = {
            "emails": [email.email_key for email in flush.emails],
            "stripe_calls": [call.call_key for call in flush.calls],
            "exports": [export.export_key for export in flush.exports],
        }
        for table, keys in queued.items():
            if keys:
                with classified():
                    await self._connection.execute(_SUPPRESS[table], keys)
