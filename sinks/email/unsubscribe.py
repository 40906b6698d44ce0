"""Makes and verifies the unsubscribe link of an optional mail (RFC 8058), and stores unsubscribes.

The signature prevents a reader from unsubscribing someone else. The link never expires: it must still work in a
year-old mail.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import asyncpg

from schemas.errors import BillingError
from schemas.keyed_signature import read_signed_token, signed_token
from sinks.postgres.failures import classified

_LABEL = b"billing-stream unsubscribe v1\0"


class ForgedToken(BillingError):
    """The token is malformed, or was not signed with this secret."""


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A customer and the template to unsubscribe from."""

    account: str
    customer_id: str
    template: str


def sign(secret: bytes, subscriber: Subscriber) -> str:
    """Return a URL-safe token that contains the subscriber; `secret` is the deployment's link secret."""
    body = json.dumps([subscriber.account, subscriber.customer_id, subscriber.template]).encode()
    return signed_token(secret, _LABEL, body)


def verify(secrets: Sequence[bytes], token: str) -> Subscriber:
    """Return the subscriber that was passed to `sign` with one of these secrets. Raises ForgedToken."""
    body = read_signed_token(secrets, _LABEL, token)
    if body is None:
        raise ForgedToken
    account, customer_id, template = json.loads(body)  # safe to parse: the signature is ours
    return Subscriber(account, customer_id, template)


def unsubscribe_url(app_url: str, secret: bytes, subscriber: Subscriber) -> str:
    """Return `{app_url}/unsubscribe?token=…`. GET shows a page, POST (one click) unsubscribes."""
    return f"{app_url.rstrip('/')}/unsubscribe?{urlencode({'token': sign(secret, subscriber)})}"


_STOP = """
INSERT INTO billing.unsubscribed (account, customer_id, template, at) VALUES ($1, $2, $3, now()) ON CONFLICT DO NOTHING
"""


class Unsubscriptions:
    """Stores unsubscribes in `billing.unsubscribed`, for genuine tokens only."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], secrets: Sequence[bytes]) -> None:
        self._pool = pool
        self._secrets = secrets

    def is_genuine(self, token: str) -> bool:
        """Whether the token was signed with one of this deployment's link secrets."""
        try:
            verify(self._secrets, token)
        except ForgedToken:
            return False
        return True

    async def stop(self, token: str) -> bool:
        """Unsubscribe the customer from this template. Returns False for a forged token. Raises StoreUnavailable."""
        try:
            subscriber = verify(self._secrets, token)
        except ForgedToken:
            return False
        with classified():
            await self._pool.execute(_STOP, subscriber.account, subscriber.customer_id, subscriber.template)
        return True
