"""Between the worker's transaction and the dispatcher: the rows of `billing.emails`, one state machine.

    queued ──claim──▶ sending ──▶ sent
      ▲  ▲              │  │
      │  └── later ─────┘  └────▶ failed ──requeue──▶ queued
      └───── the claim ran out (its dispatcher died)

While a row is `sending`, `next_attempt_at` is when its claim runs out; so "due" is one condition for both, and one
index. A claim is told apart by `claimed_by` and `attempts`: whoever lost it changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import asyncpg
import orjson
from pydantic import SecretStr

from sinks.email.message import QueuedMail
from sinks.postgres.connection import CONNECT_TIMEOUT_S, Bounds, dsn
from sinks.postgres.failures import classified

CHANNEL = "billing_emails"
CLAIM = timedelta(minutes=10)
"""Longer than a claimed handful of mails can take (dispatcher.py), so that a living dispatcher keeps its claims."""

_LONGEST_ERROR = 500

_HAS_DUE = "SELECT EXISTS (SELECT FROM billing.emails WHERE status IN ('queued', 'sending') AND next_attempt_at <= $1)"
# The CTE locks each row before it is changed; a subquery in its place might be run twice and claim too many.
_CLAIM = """
WITH due AS (
    SELECT email_key FROM billing.emails
    WHERE status IN ('queued', 'sending') AND next_attempt_at <= $1
    ORDER BY next_attempt_at LIMIT $2
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE billing.emails e
    SET status = 'sending', claimed_by = $3, attempts = e.attempts + 1, next_attempt_at = $4
    FROM due WHERE e.email_key = due.email_key
    RETURNING e.*
)
SELECT claimed.*, c.email AS customer_email, c.locale AS customer_locale
FROM claimed LEFT JOIN billing.customers c USING (account, customer_id)
ORDER BY queued_at, email_key
"""


def _ours(assignments: str) -> str:
    """One statement that settles a claim, if it is still ours: $1 key, $2 claimer, $3 attempts."""
    return (
        f"UPDATE billing.emails SET claimed_by = NULL, {assignments} "  # noqa: S608 - the constants below
        "WHERE email_key = $1 AND status = 'sending' AND claimed_by = $2 AND attempts = $3"
    )


_SENT = _ours("status = 'sent', sent_at = $4, message_id = $5, recipient = coalesce(recipient, $6), last_error = NULL")
_LATER = _ours("status = 'queued', next_attempt_at = $4, last_error = $5")
_GIVE_BACK = _ours(
    "status = 'queued', next_attempt_at = $4, last_error = coalesce($5, last_error), attempts = attempts - 1"
)
_FAILED = _ours("status = 'failed', last_error = $4")
_DEPTH = """
SELECT count(*) AS open, min(next_attempt_at) FILTER (WHERE next_attempt_at <= $1) AS oldest_due
FROM billing.emails WHERE status IN ('queued', 'sending')
"""
_LIST = """
SELECT email_key, event_id, account, customer_id, template, recipient, livemode, status, attempts, queued_at,
       next_attempt_at, sent_at, message_id, last_error
FROM billing.emails
WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR template = $2)
      AND ($3::text IS NULL OR customer_id = $3)
ORDER BY queued_at DESC, email_key LIMIT $4
"""
_REQUEUE = """
WITH chosen AS (
    SELECT email_key FROM billing.emails
    WHERE status = 'failed' AND ($1::text[] IS NULL OR email_key = ANY($1)) AND ($2::text IS NULL OR template = $2)
    ORDER BY queued_at, email_key LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE billing.emails e SET status = 'queued', attempts = 0, next_attempt_at = $4, claimed_by = NULL
FROM chosen WHERE e.email_key = chosen.email_key
RETURNING e.email_key
"""


@dataclass(frozen=True, slots=True)
class Depth:
    """How much is still to be sent, and since when the longest-waiting due mail is due."""

    open: int
    oldest_due: datetime | None


class Outbox:
    """The table as one dispatcher sees it. Every method raises StoreUnavailable when Postgres does not answer."""

    def __init__(self, pool: asyncpg.Pool, claimer: str, *, claim: timedelta = CLAIM) -> None:
        self._pool = pool
        self._claimer = claimer
        self._claim = claim

    @classmethod
    async def connect(
        cls,
        url: SecretStr,
        *,
        claimer: str,
        pool_size: int = 4,
        claim: timedelta = CLAIM,
        application: str = "billing-mail",
    ) -> Self:
        """`claimer` must be this process's own. Connects when first needed, so a database that is down is no error."""
        bounds = Bounds()
        pool = asyncpg.create_pool(
            dsn(url),
            min_size=0,
            max_size=pool_size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=bounds.client_s,
            server_settings=bounds.server_settings(application),
        )
        with classified():
            await pool
        return cls(pool, claimer, claim=claim)

    async def close(self) -> None:
        await self._pool.close()

    async def has_due(self, now: datetime) -> bool:
        """Whether a claim would find something."""
        with classified():
            return bool(await self._pool.fetchval(_HAS_DUE, now))

    async def claim(self, now: datetime, limit: int) -> list[QueuedMail]:
        """Up to `limit` due mails, ours until the claim runs out; each counts as a try from here on."""
        until = now + self._claim
        with classified():
            rows = await self._pool.fetch(_CLAIM, now, limit, self._claimer, until)
        return [_mail(row, until) for row in rows]

    async def mark_sent(self, mail: QueuedMail, now: datetime, message_id: str, recipient: str) -> bool:
        """False when the claim was lost: then another dispatcher may send the mail as well."""
        return await self._settle(_SENT, mail, now, message_id, recipient)

    async def retry(self, mail: QueuedMail, at: datetime, error: str) -> bool:
        """Queued again; the try counts."""
        return await self._settle(_LATER, mail, at, error[:_LONGEST_ERROR])

    async def give_back(self, mail: QueuedMail, at: datetime, reason: str | None) -> bool:
        """Queued again as if it had not been claimed: the try does not count."""
        return await self._settle(_GIVE_BACK, mail, at, reason and reason[:_LONGEST_ERROR])

    async def fail(self, mail: QueuedMail, error: str) -> bool:
        """Given up, until an operator requeues it."""
        return await self._settle(_FAILED, mail, error[:_LONGEST_ERROR])

    async def depth(self, now: datetime) -> Depth:
        with classified():
            row = await self._pool.fetchrow(_DEPTH, now)
        return Depth(row["open"], row["oldest_due"]) if row is not None else Depth(0, None)

    async def list(
        self, *, status: str | None, template: str | None = None, customer_id: str | None = None, limit: int = 100
    ) -> Sequence[dict[str, Any]]:
        """Rows for an operator, newest first, without their data."""
        with classified():
            return [dict(row) for row in await self._pool.fetch(_LIST, status, template, customer_id, limit)]

    async def requeue(
        self, now: datetime, *, keys: Sequence[str] | None, template: str | None = None, limit: int = 1000
    ) -> Sequence[str]:
        """Failed mails back into the queue with all their tries; the keys of those that were. `keys` None means any."""
        with classified():
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(_REQUEUE, keys, template, limit, now)
                await connection.execute("SELECT pg_notify($1, '')", CHANNEL)
        return [row["email_key"] for row in rows]

    async def _settle(self, statement: str, mail: QueuedMail, *values: object) -> bool:
        with classified():
            done = await self._pool.execute(statement, mail.key, self._claimer, mail.attempts, *values)
        return str(done) == "UPDATE 1"


def _mail(row: asyncpg.Record, until: datetime) -> QueuedMail:
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
    )
