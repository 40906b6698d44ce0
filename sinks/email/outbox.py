"""Reads and settles the rows of `billing.emails`, which the worker queues. The states are in sinks/outbox/claims.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import asyncpg
import orjson

from schemas.effects import FIND_RECIPIENT
from sinks.email.message import QueuedMail
from sinks.outbox.claims import Claims
from sinks.outbox.statements import Queue, in_order
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import EMAILS, STRIPE_CALLS

RECIPIENT_UNKNOWN = "the customer's address is not known yet"
"""The `last_error` of a mail that waits for its customer's address. Later mails with an address do not wait for it."""

_ASK = """
INSERT INTO billing.stripe_calls
    (call_key, event_id, account, customer_id, livemode, method, path, purpose, queued_at, next_attempt_at)
VALUES ($1, $2, $3, $4, $5, 'GET', '/v1/customers/' || $4, $6, now() + $7::interval, now() + $7::interval)
ON CONFLICT (call_key) DO NOTHING"""
_SHOW = """
SELECT m.*, c.email AS customer_email, c.locale AS customer_locale FROM billing.emails m
LEFT JOIN billing.customers c USING (account, customer_id) WHERE m.email_key = $1
"""


class MailOutbox(Claims[QueuedMail]):
    """The mail outbox as one dispatcher uses it. Every method raises StoreUnavailable if Postgres does not answer."""

    application = "billing-mail"
    queue = Queue(
        outbox=EMAILS,
        listed="email_key, event_id, account, customer_id, template, recipient, livemode, status, attempts, queued_at, "
        "next_attempt_at, sent_at, message_id, last_error",
        read="SELECT claimed.*, claimed_at - queued_at AS age FROM claimed",
        # The mails of one customer leave in the order in which they were queued.
        may_claim=in_order(
            EMAILS, "true", "earlier.last_error IS DISTINCT FROM '" + RECIPIENT_UNKNOWN.replace("'", "''") + "'"
        )
        + " AND o.template <> ALL($5::text[])",
        on_done=", sent_at = now() + $2::interval",
    )

    async def ask_for_customer(self, mail: QueuedMail) -> None:
        """Queue one call that fetches the mail's customer from Stripe. The response is appended to the log as an event.

        Does nothing if a call for this customer was queued before.
        """
        key = f"recipient:{mail.account}:{mail.customer_id}"
        with classified():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    _ASK,
                    key,
                    mail.event_id,
                    mail.account,
                    mail.customer_id,
                    mail.livemode,
                    FIND_RECIPIENT,
                    self._ahead(),
                )
                await connection.execute("SELECT pg_notify($1, '')", STRIPE_CALLS.channel)

    async def show(self, key: str) -> dict[str, Any] | None:
        """Return the whole row with its data decoded, and the customer's address and locale; None if unknown."""
        with classified():
            row = await self._pool.fetchrow(_SHOW, key)
        return dict(row) | {"data": orjson.loads(row["data"])} if row is not None else None

    def _claim_values(self, avoid: Collection[str]) -> Sequence[object]:
        return (list(avoid),)

    def _read(self, row: asyncpg.Record, deadline: float) -> QueuedMail:
        return QueuedMail(
            **self._claimed(row, deadline),
            template=row["template"],
            recipient=row["recipient"],
            locale=row["locale"],
            livemode=row["livemode"],
            data=orjson.loads(row["data"]),
            status=row["status"],
            age=row["age"],
            clock=deadline - self._claim.total_seconds(),
        )
