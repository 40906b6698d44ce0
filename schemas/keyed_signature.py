"""Signs what a link contains with the deployment's link secret. Each kind of link has a label of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac


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
