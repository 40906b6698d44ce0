"""Signs the link to an export for the mail, and verifies it at the gateway. A link is valid for a limited time.

The signature covers the export's id and the expiry time. The gateway looks up the export only after the verification.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from urllib.parse import urlencode

from schemas.keyed_signature import is_same, signature_of, url_safe

_LABEL = b"billing-stream export v1\0"
_LONGEST_TIME = 12
"""Maximum number of digits of the expiry time in seconds since the epoch."""


class LinkVerdict(Enum):
    """The result of checking a link. An expired link has a valid signature."""

    VALID = "valid"
    FORGED = "forged"
    EXPIRED = "expired"


def export_url(public_url: str, secret: bytes, export_id: str, expires_at: datetime) -> str:
    """Returns `{public_url}/exports/{export_id}?expires=…&signature=…`. `expires_at` is cut to whole seconds."""
    expires = str(int(expires_at.astimezone(UTC).timestamp()))
    signed = {"expires": expires, "signature": _signature(secret, export_id, expires)}
    return f"{public_url}/exports/{export_id}?{urlencode(signed)}"


def check_export_link(
    secrets: Sequence[bytes], export_id: str, expires: str, signature: str, now: datetime
) -> LinkVerdict:
    """Checks the values of a request, which may be anything. Compares the signature in constant time.

    A link of each of the secrets is valid.
    """
    given = signature.encode("utf-8", "surrogatepass")
    if not any(is_same(_signature(secret, export_id, expires).encode(), given) for secret in secrets):
        return LinkVerdict.FORGED
    if not (expires.isascii() and expires.isdigit() and len(expires) <= _LONGEST_TIME):
        return LinkVerdict.FORGED  # signed with the right secret, but not by this module
    return LinkVerdict.VALID if now.timestamp() < int(expires) else LinkVerdict.EXPIRED


def _signature(secret: bytes, export_id: str, expires: str) -> str:
    # The lengths are included, so that two different pairs of id and expiry never give the same message.
    message = b"".join(
        len(part).to_bytes(8) + part
        for part in (text.encode("utf-8", "surrogatepass") for text in (export_id, expires))
    )
    return url_safe(signature_of(secret, _LABEL, message))
