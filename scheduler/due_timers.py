"""Reads due timers from Postgres, and marks those that were appended to the log.

Any number of schedulers may run, but only one works at a time: a transaction-level advisory lock gives it the turn. A
scheduler that dies or freezes loses the lock with its session. No row is locked while the scheduler waits for Kafka. If
the worker moves, cancels or finishes a timer in the meantime, the timer stays as the worker wrote it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg
from pydantic import SecretStr

from schemas.state import Timer
from schemas.statuses import TimerStatus
from sinks.postgres.failures import classified
from sinks.postgres.loading import SHAPES
from sinks.postgres.outboxes import TIMERS_CHANNEL
from sinks.postgres.planning import PLANNING
from sinks.postgres.pool import NeedsDirectUrl, Session, SessionTimeouts, connect

_TURN_ID = 0x74696D657273  # "timers"

_TIMERS = SHAPES[Timer]
_TAKE_TURN = "SELECT pg_try_advisory_xact_lock($1)"
_DUE = (
    f"SELECT {_TIMERS.selected} FROM billing.timers AS t WHERE t.status = 'pending' AND t.due_at <= $1 "  # noqa: S608  # only constant names
    "ORDER BY t.due_at, t.timer_key LIMIT $2"
)
_NEXT = "SELECT min(due_at) FROM billing.timers WHERE status = 'pending'"
_WAITING = """
SELECT event_id, type, source, account, livemode, api_version, endpoint, received_at, payload::text AS payload
FROM billing.events WHERE event_id = ANY($1::text[]) AND outcome = 'waiting' AND payload IS NOT NULL
"""
# Locks rows in key order, as the worker does, so that the two cannot deadlock.
_MARK = """
UPDATE billing.timers AS t SET status = $3 FROM (
    SELECT c.timer_key FROM billing.timers c
    JOIN unnest($1::text[], $2::timestamptz[]) AS r (timer_key, due_at)
      ON c.timer_key = r.timer_key AND c.due_at = r.due_at
    WHERE c.status = 'pending' ORDER BY c.timer_key FOR UPDATE OF c
) AS claimed WHERE t.timer_key = claimed.timer_key
"""


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """A waiting event as stored in the ledger. `payload` is its JSON text."""

    event_id: str
    type: str
    source: str
    account: str
    livemode: bool
    api_version: str | None
    endpoint: str | None
    received_at: datetime | None
    payload: str


class Turn:
    """The transaction of the scheduler that holds the lock. Methods raise StoreUnavailable."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def now(self) -> datetime:
        """Returns the time of Postgres' clock."""
        with classified():
            found: datetime = await self._connection.fetchval("SELECT clock_timestamp()")
        return found

    async def due(self, now: datetime, limit: int) -> list[Timer]:
        """Returns at most `limit` pending timers that are due at `now`, the longest overdue first."""
        with classified():
            return [_TIMERS.row(record) for record in await self._connection.fetch(_DUE, now, limit)]

    async def waiting_events(self, event_ids: Sequence[str]) -> dict[str, WaitingEvent]:
        """Returns those of these events that are still waiting and have a payload, by id."""
        if not event_ids:
            return {}
        with classified():
            records = await self._connection.fetch(_WAITING, list(event_ids))
        return {record["event_id"]: WaitingEvent(**dict(record)) for record in records}

    async def mark(self, timers: Sequence[Timer], status: TimerStatus) -> None:
        """Sets the status of these timers, if they are still pending and have the same due time."""
        if timers:
            keys, due = [timer.timer_key for timer in timers], [timer.due_at for timer in timers]
            with classified():
                await self._connection.execute(_MARK, keys, due, status)


class DueTimers:
    """The scheduler's connection to Postgres. Not for concurrent use."""

    def __init__(self, connection: Session) -> None:
        self._connection = connection

    @classmethod
    async def connect(
        cls, url: SecretStr, wake: Callable[[], None], *, bounds: SessionTimeouts | None = None
    ) -> DueTimers:
        """Connects and listens for changed timers. Raises StoreUnavailable, InvalidSettings.

        `wake` is called when timers were started or moved, and when the connection is lost.
        """
        try:
            connection = await connect(
                url, application="billing-scheduler", bounds=bounds, parameters=PLANNING, own_session=True
            )
        except NeedsDirectUrl:  # a pooler shares sessions, so LISTEN has no effect: only polls find changed timers
            return cls(await connect(url, application="billing-scheduler", bounds=bounds, parameters=PLANNING))
        with classified():
            connection.add_termination_listener(lambda *_: wake())
            await connection.add_listener(TIMERS_CHANNEL, lambda *_: wake())
        return cls(connection)

    @property
    def is_lost(self) -> bool:
        return self._connection.is_closed() or self._connection.is_unusable

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn | None]:
        """Runs the block in a transaction and commits at its end. Yields None if another scheduler holds the lock."""
        with classified():
            async with self._connection.transaction():
                has_lock = await self._connection.fetchval(_TAKE_TURN, _TURN_ID)
                yield Turn(self._connection) if has_lock else None

    async def next_due(self) -> datetime | None:
        """Returns when the earliest pending timer is due, possibly in the past; None if no timer is pending."""
        with classified():
            found: datetime | None = await self._connection.fetchval(_NEXT)
        return found

    def close(self) -> None:
        """Ends the session at once. Between two turns it has no uncommitted work."""
        self._connection.terminate()
