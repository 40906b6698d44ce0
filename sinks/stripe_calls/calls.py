"""Reads and settles the rows of `billing.stripe_calls`, which the worker queues. The states: sinks/outbox/claims.py.

The POSTs of one customer are made in the order in which they were queued: while an earlier POST is open, a later one is
not claimed. Otherwise the retry of an older "set default card" after a 500 would replace a card that was set later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from sinks.outbox.claims import Claims, Queue
from sinks.postgres.outboxes import STRIPE_CALLS

# Rows queued by one batch have the same `queued_at`. Their order is then that of their events' offsets.
_NO_EARLIER_POST = """(o.method <> 'POST' OR o.customer_id IS NULL OR NOT EXISTS (
        SELECT FROM billing.stripe_calls earlier LEFT JOIN billing.events ee ON ee.event_id = earlier.event_id
        WHERE earlier.account = o.account AND earlier.customer_id = o.customer_id AND earlier.method = 'POST'
            AND earlier.status IN ('queued', 'calling') AND earlier.call_key <> o.call_key
            AND (earlier.queued_at, coalesce(ee."offset", 0), earlier.call_key) < (
                o.queued_at,
                coalesce((SELECT e."offset" FROM billing.events e WHERE e.event_id = o.event_id), 0),
                o.call_key
            )
    ))"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedCall:
    """A claimed row. `event_created` (UTC) is `created` of the event that ordered it, None if not in the ledger."""

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
    queued_at: datetime
    claimed_until: datetime
    event_created: datetime | None = None


class Calls(Claims[QueuedCall]):
    """The outbox of Stripe calls. Every method raises StoreUnavailable if Postgres does not answer."""

    application = "billing-stripe-calls"
    queue = Queue(
        outbox=STRIPE_CALLS,
        listed="call_key, event_id, account, customer_id, livemode, method, path, purpose, status, attempts, "
        "queued_at, next_attempt_at, done_at, last_error",
        read="SELECT claimed.*, e.created AS event_created FROM claimed LEFT JOIN billing.events e USING (event_id) "
        "ORDER BY queued_at, call_key",
        may_claim=_NO_EARLIER_POST,
        on_requeue=", queued_at = $4",  # resets the age limit of its tries (caller.py, TOO_LATE)
    )

    async def mark_done(self, call: QueuedCall, now: datetime) -> bool:
        """Return False if the claim was lost; another dispatcher may then repeat the call with the same key."""
        return await self._settle(call, "status = 'done', done_at = $4, last_error = NULL", now)

    def _read(self, row: asyncpg.Record, until: datetime) -> QueuedCall:
        return QueuedCall(
            key=row["call_key"],
            event_id=row["event_id"],
            account=row["account"],
            customer_id=row["customer_id"],
            livemode=row["livemode"],
            method=row["method"],
            path=row["path"],
            params=orjson.loads(row["params"]),
            purpose=row["purpose"],
            attempts=row["attempts"],
            queued_at=row["queued_at"],
            claimed_until=until,
            event_created=row["event_created"],
        )
