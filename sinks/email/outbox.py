"""Reads and settles the rows of `billing.emails`, which the worker queues. The states are in sinks/outbox/claims.py."""

from __future__ import annotations

from datetime import datetime

import asyncpg
import orjson

from schemas.effects import FIND_RECIPIENT
from sinks.email.message import QueuedMail
from sinks.outbox.claims import Claims, Queue
from sinks.postgres.failures import classified
from sinks.postgres.outboxes import EMAILS, STRIPE_CALLS

_ASK = """
INSERT INTO billing.stripe_calls
    (call_key, event_id, account, customer_id, livemode, method, path, purpose, queued_at, next_attempt_at)
VALUES ($1, $2, $3, $4, $5, 'GET', '/v1/customers/' || $4, $6, $7, $7)
ON CONFLICT (call_key) DO NOTHING"""


class Outbox(Claims[QueuedMail]):
    """The mail outbox as one dispatcher uses it. Every method raises StoreUnavailable if Postgres does not answer."""

    application = "billing-mail"
    queue = Queue(
        outbox=EMAILS,
        listed="email_key, event_id, account, customer_id, template, recipient, livemode, status, attempts, queued_at, "
        "next_attempt_at, sent_at, message_id, last_error",
        read="SELECT claimed.*, c.email AS customer_email, c.locale AS customer_locale, u.at IS NOT NULL AS is_stopped "
        "FROM claimed LEFT JOIN billing.customers c USING (account, customer_id) "
        "LEFT JOIN billing.unsubscribed u USING (account, customer_id, template) ORDER BY queued_at, email_key",
    )

    async def mark_sent(self, mail: QueuedMail, now: datetime, message_id: str, recipient: str) -> bool:
        """Return False if the claim was lost; another dispatcher may then send the mail as well."""
        return await self._settle(
            mail,
            "status = 'sent', sent_at = $4, message_id = $5, recipient = coalesce(recipient, $6), last_error = NULL",
            now,
            message_id,
            recipient,
        )

    async def ask_for_customer(self, mail: QueuedMail, now: datetime) -> None:
        """Queue one call that fetches the mail's customer from Stripe. The response is appended to the log as an event.

        Does nothing if a call for this customer was queued before.
        """
        key = f"recipient:{mail.account}:{mail.customer_id}"
        with classified():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    _ASK, key, mail.event_id, mail.account, mail.customer_id, mail.livemode, FIND_RECIPIENT, now
                )
                await connection.execute("SELECT pg_notify($1, '')", STRIPE_CALLS.channel)

    def _read(self, row: asyncpg.Record, until: datetime) -> QueuedMail:
        return QueuedMail(
            key=row["email_key"],
            event_id=row["event_id"],
            account=row["account"],
            customer_id=row["customer_id"],
            template=row["template"],
            recipient=row["recipient"],
            locale=row["locale"],
            livemode=row["livemode"],
            data=orjson.loads(row["data"]),
            attempts=row["attempts"],
            queued_at=row["queued_at"],
            claimed_until=until,
            customer_email=row["customer_email"],
            customer_locale=row["customer_locale"],
            is_stopped=row["is_stopped"],
        )
