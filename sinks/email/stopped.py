"""Who wants no more of which optional mail: kept for the dispatcher, written by the link in the mail (RFC 8058)."""

from __future__ import annotations

import asyncpg

from sinks.email.unsubscribe import ForgedToken, verify
from sinks.postgres.failures import classified

_STOP = """
INSERT INTO billing.unsubscribed (account, customer_id, template, at) VALUES ($1, $2, $3, now()) ON CONFLICT DO NOTHING
"""


class Unsubscriptions:
    """The table, behind the links' signature."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], secret: bytes) -> None:
        self._pool = pool
        self._secret = secret

    def is_genuine(self, token: str) -> bool:
        """Whether a mail of ours had this token in its link."""
        try:
            verify(self._secret, token)
        except ForgedToken:
            return False
        return True

    async def stop(self, token: str) -> bool:
        """No more of these mails for this customer; False for a token that is not ours. Raises StoreUnavailable."""
        try:
            subscriber = verify(self._secret, token)
        except ForgedToken:
            return False
        with classified():
            await self._pool.execute(_STOP, subscriber.account, subscriber.customer_id, subscriber.template)
        return True
