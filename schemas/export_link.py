"""In the mail, and again at the gateway: a link to an export that nobody else can make, and that holds for a while.

The signature is over the export's id and the link's end. What the link opens is looked up only after it holds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from enum import Enum
from urllib.parse import urlencode

_LABEL = b"billing-stream export v1\0"
_LONGEST_TIME = 12
"""Digits of seconds since the epoch."""


class LinkVerdict(Enum):
    """What a link is worth. An expired one was made by us."""

    VALID = "valid"
    FORGED = "forged"
    EXPIRED = "expired"


def export_url(public_url: str, secret: bytes, export_id: str, expires_at: datetime) -> str:
    """`{public_url}/exports/{export_id}?expires=…&signature=…`; `expires_at` counts in whole seconds."""
    expires = str(int(expires_at.astimezone(UTC).timestamp()))
    signed = {"expires": expires, "signature": _signature(secret, export_id, expires)}
    return f"{public_url}/exports/{export_id}?{urlencode(signed)}"


def check_export_link(secret: bytes, export_id: str, expires: str, signature: str, now: datetime) -> LinkVerdict:
    """The verdict on what came with a request, whatever it is; in constant time as to the signature."""
    expected = _signature(secret, export_id, expires)
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
        return LinkVerdict.FORGED
    if not (expires.isascii() and expires.isdigit() and len(expires) <= _LONGEST_TIME):
        return LinkVerdict.FORGED  # signed by someone with our secret, and not by this module
    return LinkVerdict.VALID if now.timestamp() < int(expires) else LinkVerdict.EXPIRED


def _signature(secret: bytes, export_id: str, expires: str) -> str:
    # Lengths first, so that no two pairs of id and end are one message.
    message = b"".join(
        len(part).to_bytes(8) + part
        for part in (text.encode("utf-8", "surrogatepass") for text in (export_id, expires))
    )
    digest = hmac.new(secret, _LABEL + message, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
