"""Reads and settles the rows of `billing.stripe_calls`, which the worker queues. The states: sinks/outbox/claims.py.

The POSTs of one customer are made in the order in which they were queued: while an earlier POST is open, a later one is
not claimed. Otherwise the retry of an older "set default card" after a 500 would replace a card that was set later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import orjson

from sinks.outbox.claims import Claims
from sinks.outbox.statements import Queue, in_order
from sinks.postgres.outboxes import STRIPE_CALLS


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedCall:
    """A claimed row. `event_created` (UTC) is `created` of the event that ordered it, None if not in the ledger.

    `now` is Postgres' time of the claim, `age` the time since the row was queued, `deadline` the time.monotonic() at
    which the claim expires.
    """

    key: str
    event_id: str
    account: str
    customer_id: str | None
    livemode: bool
    method: str
    path: str
    params: Mapping[str, Any]
    purpose: str
    attempts: int
    status: str
    last_error: str | None
    now: datetime
    age: timedelta
    deadline: float
    event_created: datetime | None = None
    is_shadow: bool = False
    """Whether shadow mode was on at the claim."""


class Calls(Claims[QueuedCall]):
    """The outbox of Stripe calls. Every method raises StoreUnavailable if Postgres does not answer."""

    application = "billing-stripe-calls"
    queue = Queue(
        outbox=STRIPE_CALLS,
        listed="call_key, event_id, account, customer_id, livemode, method, path, purpose, status, attempts, "
        "queued_at, next_attempt_at, done_at, last_error",
        read="SELECT claimed.*, claimed_at - queued_at AS age, e.created AS event_created "
        "FROM claimed LEFT JOIN billing.events e USING (event_id)",
        may_claim=in_order(STRIPE_CALLS, "o.method = 'POST'", "earlier.method = 'POST'")
        + " AND o.purpose <> ALL($5::text[])",
        on_done=", done_at = now() + $2::interval",
        on_requeue=", queued_at = now() + $4::interval",  # resets the age limit of its tries (caller.py, TOO_LATE)
    )

    def _claim_values(self, avoid: Collection[str]) -> Sequence[object]:
        return (list(avoid),)

    def _read(self, row: asyncpg.Record, deadline: float) -> QueuedCall:
        return QueuedCall(
            **self._claimed(row, deadline),
            livemode=row["livemode"],
            method=row["method"],
            path=row["path"],
            params=orjson.loads(row["params"]),
            purpose=row["purpose"],
            status=row["status"],
            age=row["age"],
            event_created=row["event_created"],
        )
