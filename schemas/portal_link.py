"""Signs the link of "update payment method" in a mail, and verifies it at the gateway, which opens a portal session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from schemas.errors import BillingError
from schemas.keyed_signature import read_signed_token, signed_token

_LABEL = b"billing-stream portal v1\0"


class ForgedLink(BillingError):
    """The token is malformed, or was not signed with one of these secrets."""


class PortalRefused(BillingError):
    """Stripe will not open a portal for this customer. The message is Stripe's, for the log."""


@dataclass(frozen=True, slots=True)
class PortalLink:
    """Whose portal the link opens, and until when (UTC, whole seconds)."""

    account: str
    customer_id: str
    expires_at: datetime


def portal_url(public_url: str, secret: bytes, link: PortalLink) -> str:
    """Returns `{public_url}/portal?token=…`."""
    expires = int(link.expires_at.astimezone(UTC).timestamp())
    body = json.dumps([link.account, link.customer_id, expires]).encode()
    return f"{public_url}/portal?{urlencode({'token': signed_token(secret, _LABEL, body)})}"


def read_portal_token(secrets: Sequence[bytes], token: str) -> PortalLink:
    """Returns what was signed with one of the secrets; whether it has expired is not checked. Raises ForgedLink."""
    body = read_signed_token(secrets, _LABEL, token)
    if body is None:
        raise ForgedLink
    account, customer_id, expires = json.loads(body)  # safe to parse: the signature is ours
    return PortalLink(account, customer_id, datetime.fromtimestamp(expires, UTC))
