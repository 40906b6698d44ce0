"""Fires single timers for operators before their time, with a row of the audit log.

A timer's event goes on the log as the scheduler would append it at the timer's time: with that time and the same id.
So its rule decides as at that time, a second append is dropped, and a rebuild finds the event on the log. A change of
the row alone, such as another time, would not be on the log, and a rebuild would undo it.

A change names the time at which the timer was due when the operator saw it. If the worker has moved or ended the timer
since, or the scheduler has fired it, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from datetime import datetime

import structlog
from pydantic import SecretStr
from sqlalchemy import ColumnElement, func, select, update

from schemas.errors import BillingError, StoreRefused, StoreUnavailable
from schemas.state import Timer
from schemas.statuses import TimerStatus
from schemas.timer import RETRY
from sinks.postgres.audit_log import ActionOutcome, AuditEntry, complete_begun_in, complete_in, record_in
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import TIMERS_CHANNEL
from sinks.postgres.pool import SessionTimeouts, make_engine
from sinks.postgres.tables import timers

log = structlog.get_logger(__name__)

FIRED_EARLY = frozenset(
    {
        RETRY,
        *("card-expiring", "dispute-due", "dispute-link", "dunning-reminder", "method-detached", "trial-reminder"),
        "win-back",
    }
)
"""The kinds of timers that an operator may fire before their time."""

NOT_FIRED_EARLY: Mapping[str, str] = {
    "access-ends": "Access ends when the stored grace time ends, so its notification is sent then.",
    "erase": "`billing erase` erases a customer before this time.",
}
"""Why a timer of another kind fires only at its time."""

Append = Callable[[Timer], Awaitable[None]]
"""Appends the timer's event to the log. Raises LogUnavailable."""


def why_not(kind: str) -> str | None:
    """Returns why an operator may not fire a timer of this kind, None if it may be fired."""
    if kind in FIRED_EARLY:
        return None
    return NOT_FIRED_EARLY.get(kind, f"Timers of kind {kind} fire only at their time.")


class TimerChanges:
    """Changes pending timers. Opens a connection per call. Methods raise StoreUnavailable.

    `begun` is the row of the audit log of the last timer whose event was to be appended.
    """

    def __init__(self, url: SecretStr, *, application: str) -> None:
        bounds = SessionTimeouts(statement_s=10.0, lock_s=3.0, idle_in_transaction_s=10.0)
        self._engine = make_engine(url, application=application, bounds=bounds)
        self.begun: int | None = None

    async def fire(self, key: str, seen_due: datetime, entry: AuditEntry, append: Append) -> bool:
        """Fires the timer. Returns False if it is not pending, not due at `seen_due` any more, or of another kind.

        The timer of a waiting event is made due, and the scheduler appends the waiting event. Raises LogUnavailable.
        """
        c = timers.c
        is_as_seen = (
            (c.timer_key == key) & (c.status == "pending") & (c.due_at == seen_due) & c.kind.in_(sorted(FIRED_EARLY))
        )
        query = select(*(c[one.name] for one in fields(Timer))).where(is_as_seen)
        begun: int | None = None
        with classified():
            async with self._engine.begin() as connection:
                found = (await connection.execute(query)).mappings().one_or_none()
                if found is not None and found["kind"] != RETRY:
                    # What is appended cannot be rolled back, so it is recorded before.
                    begun = await record_in(connection, replace(entry, outcome=ActionOutcome.BEGUN))
        if found is None:
            return False
        if begun is None:
            return await self._make_due(is_as_seen, entry)
        self.begun = begun
        try:
            # No row is locked while Kafka is waited for. The worker may end the timer before it is marked here.
            await append(Timer(**{str(name): value for name, value in found.items()}))
        except BaseException as error:  # also cancelled: the row must not stay begun
            is_known = isinstance(error, BillingError)
            await self._failed(begun, 0, str(error) if is_known else f"not known whether it was appended: {error!r}")
            raise
        try:
            with classified():
                async with self._engine.begin() as connection:
                    await connection.execute(update(timers).where(is_as_seen).values(status=TimerStatus.FIRED))
                    await connection.execute(select(func.pg_notify(TIMERS_CHANNEL, "")))
                    await complete_in(connection, begun, ActionOutcome.DONE, count=1)
        except BaseException as error:
            await self._failed(begun, 1, f"its event is on the log, but the timer was not marked: {error!r}")
            raise
        return True

    async def _make_due(self, is_as_seen: ColumnElement[bool], entry: AuditEntry) -> bool:
        with classified():
            async with self._engine.begin() as connection:
                due = update(timers).where(is_as_seen).values(due_at=func.now())
                if not (await connection.execute(due)).rowcount:
                    return False
                await connection.execute(select(func.pg_notify(TIMERS_CHANNEL, "")))
                await record_in(connection, replace(entry, count=1))
                return True

    async def _failed(self, entry_id: int, count: int, note: str) -> None:
        """Stores that it failed. If Postgres does not take that, who called `fire` may complete the row `begun`."""
        try:
            with classified():
                async with self._engine.begin() as connection:
                    await complete_begun_in(connection, entry_id, ActionOutcome.FAILED, count=count, note=note)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("timer.not_recorded", action="timer.not_recorded", entry=entry_id, error=str(error))
