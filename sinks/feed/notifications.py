"""Reads and settles the rows of `billing.notifications`, which the worker queues. The states: sinks/outbox/claims.py.

A destination gets the notifications of one customer in their order, unless a delivery fails: later ones do not wait
for a retry, and `version` says which is newer. The topic of changes keeps the order always.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import orjson

from schemas.feed_settings import TOPIC
from sinks.outbox.claims import Claims
from sinks.outbox.statements import Queue
from sinks.postgres.outboxes import NOTIFICATIONS

# ruff: noqa: S608 - built from constants only
_IN_ORDER = f"""o.destination <> ALL($5::text[])
    AND NOT EXISTS (
        SELECT FROM billing.feed_destinations d
        WHERE d.destination = o.destination AND d.disabled_at IS NOT NULL AND d.destination <> '{TOPIC}'
    ) AND NOT EXISTS (
        SELECT FROM billing.notifications earlier
        WHERE earlier.destination = o.destination AND earlier.account = o.account
            AND earlier.customer_id = o.customer_id AND earlier.status IN ('queued', 'sending')
            AND earlier.version < o.version AND (earlier.last_error IS NULL OR o.destination = '{TOPIC}')
    )"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedNotification:
    """A claimed row. `now` is Postgres' time of the claim, `age` the time since the row was queued."""

    key: str
    event_id: str
    account: str
    customer_id: str | None
    livemode: bool
    destination: str
    message_id: str
    type: str
    version: int
    occurred_at: datetime
    data: Mapping[str, Any]
    attempts: int
    status: str
    last_error: str | None
    now: datetime
    age: timedelta
    deadline: float
    is_shadow: bool = False
    """Whether shadow mode was on at the claim."""


class Notifications(Claims[QueuedNotification]):
    """The outbox of notifications. Every method raises StoreUnavailable if Postgres does not answer."""

    application = "billing-feed"
    queue = Queue(
        outbox=NOTIFICATIONS,
        listed="notification_key, event_id, account, customer_id, destination, message_id, type, version, livemode, "
        "status, attempts, occurred_at, queued_at, next_attempt_at, sent_at, last_error",
        read="SELECT claimed.*, claimed_at - queued_at AS age FROM claimed",
        may_claim=_IN_ORDER,
        on_done=", sent_at = now() + $2::interval",
        on_requeue=", queued_at = now() + $4::interval",  # resets the age limit of its tries (answers.py)
    )
    paused: Callable[[], Sequence[str]] = staticmethod(lambda: ())
    """Returns the destinations whose rows are not claimed now."""

    def _claim_values(self, avoid: Collection[str]) -> Sequence[object]:  # noqa: ARG002  # a destination is paused by itself
        return (list(self.paused()),)

    def _read(self, row: asyncpg.Record, deadline: float) -> QueuedNotification:
        return QueuedNotification(
            **self._claimed(row, deadline),
            livemode=row["livemode"],
            destination=row["destination"],
            message_id=row["message_id"],
            type=row["type"],
            version=row["version"],
            occurred_at=row["occurred_at"],
            data=orjson.loads(row["data"]),
            status=row["status"],
            age=row["age"],
        )
