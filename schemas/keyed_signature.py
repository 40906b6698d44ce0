"""Signs what a link contains with the deployment's link secret. Each kind of link has a label of its own."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

_LONGEST_TOKEN = 2048
"""Characters."""


def signature_of(secret: bytes, label: bytes, message: bytes) -> bytes:
    """Returns 32 bytes. The label keeps the signature of one kind of link from being used for another."""
    return hmac.new(secret, label + message, hashlib.sha256).digest()


def is_same(expected: bytes, given: bytes) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(expected, given)


def url_safe(raw: bytes) -> str:
    """Returns base64url without padding."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def from_url_safe(text: str) -> bytes:
    """Returns what was passed to `url_safe`. Raises binascii.Error, UnicodeEncodeError."""
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def signed_token(secret: bytes, label: bytes, body: bytes) -> str:
    """Returns `BODY.SIGNATURE` for a link, both URL-safe. Anyone can read the body."""
    return f"{url_safe(body)}.{url_safe(signature_of(secret, label, body))}"


def read_signed_token(secrets: Sequence[bytes], label: bytes, token: str) -> bytes | None:
    """Returns the body of a token that one of the secrets has signed under this label.

    None for any other text. Its body is not looked at.
    """
    body_part, dot, mac_part = token.partition(".")
    if not dot or len(token) > _LONGEST_TOKEN:
        return None
    try:
        body, mac = from_url_safe(body_part), from_url_safe(mac_part)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return body if any(is_same(signature_of(secret, label, body), mac) for secret in secrets) else None
