"""Moves, fires and cancels single timers for operators, each in one transaction with its row of the audit log.

A change names the time at which the timer was due when the operator saw it. If the worker has moved or ended the timer
since, or the scheduler has fired it, nothing is changed. A later event that sets the timer again has the last word.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import func, select, update

from sinks.postgres.audit_log import AuditEntry, record_in
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import TIMERS_CHANNEL
from sinks.postgres.pool import SessionTimeouts, make_engine
from sinks.postgres.tables import timers


class TimerChanges:
    """Changes pending timers. Opens a connection per call. Methods raise StoreUnavailable."""

    def __init__(self, url: SecretStr, *, application: str) -> None:
        bounds = SessionTimeouts(statement_s=10.0, lock_s=3.0, idle_in_transaction_s=10.0)
        self._engine = make_engine(url, application=application, bounds=bounds)

    async def cancel(self, key: str, seen_due: datetime, entry: AuditEntry) -> bool:
        """Cancels the timer. Returns False if it is not pending or not due at `seen_due` any more."""
        return await self._change(key, seen_due, entry, status="cancelled")

    async def move(self, key: str, seen_due: datetime, to: datetime | None, entry: AuditEntry) -> bool:
        """Makes the timer due at another time, None for now by Postgres' clock. Returns False as `cancel` does."""
        return await self._change(key, seen_due, entry, due_at=func.now() if to is None else to)

    async def _change(self, key: str, seen_due: datetime, entry: AuditEntry, **values: object) -> bool:
        c = timers.c
        is_as_seen = (c.timer_key == key) & (c.status == "pending") & (c.due_at == seen_due)
        with classified():
            async with self._engine.begin() as connection:
                if not (await connection.execute(update(timers).where(is_as_seen).values(values))).rowcount:
                    return False
                await connection.execute(select(func.pg_notify(TIMERS_CHANNEL, "")))
                await record_in(connection, replace(entry, count=1))
                return True
