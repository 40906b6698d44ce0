"""Verifies that Stripe signed a body: the first check of the gateway. Pure; the body is parsed only afterwards.

The scheme (Stripe, "Verify webhook signatures manually"): `Stripe-Signature: t=<unix seconds>,v1=<hex>[,v1=…][,v0=…]`,
where each `v1` is HMAC-SHA256 with one complete `whsec_…` secret over `"{t}." + body`. Behaviour A1.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

TOLERANCE_S = 300
"""Maximum seconds between `t` and the local clock, in both directions. Stripe's own library accepts any future time."""

MAX_HEADER_CHARS = 4096
"""Stripe's header has about 200 characters; each further secret during a rotation adds 68."""

_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


ParsedHeader = tuple[str, list[bytes]]
"""The timestamp as sent, and the well-formed `v1` digests."""


class SignatureVerdict(StrEnum):
    """The result of the check. The value is the reason sent to the caller; it reveals nothing about secrets."""

    VALID = "valid"
    MISSING = "no signature header"
    MALFORMED = "malformed signature header"
    MISMATCH = "no signature matches"
    OUTSIDE_TOLERANCE = "timestamp outside the tolerance"


def verify(
    body: bytes, header: str | None, secrets: Iterable[bytes], *, now: float, tolerance_s: float = TOLERANCE_S
) -> SignatureVerdict:
    """Checks the raw `body` against its `Stripe-Signature` header. Any secret and any `v1` may match. Does not raise.

    `now` is unix seconds.
    """
    parsed = check_header(header, now=now, tolerance_s=tolerance_s)
    if isinstance(parsed, SignatureVerdict):
        return parsed
    return SignatureVerdict.VALID if is_signed(body, parsed, secrets) else SignatureVerdict.MISMATCH


def is_signed(body: bytes, parsed: ParsedHeader, secrets: Iterable[bytes]) -> bool:
    """Returns whether one of the header's digests is that of the raw `body` with one of the secrets."""
    timestamp, candidates = parsed
    # Every pair is compared, match or not, so the duration reveals neither the secret nor the digest that matched.
    matched = False
    for secret in secrets:
        expected = _digest(timestamp, body, secret).encode()
        for candidate in candidates:
            matched |= hmac.compare_digest(expected, candidate)
    return matched


def check_header(
    header: str | None, *, now: float, tolerance_s: float = TOLERANCE_S
) -> SignatureVerdict | ParsedHeader:
    """Returns the header's parts, or why the request is refused without reading its body."""
    if not header:
        return SignatureVerdict.MISSING
    parsed = _parse(header)
    if parsed is None:
        return SignatureVerdict.MALFORMED
    if abs(now - int(parsed[0])) > tolerance_s:
        return SignatureVerdict.OUTSIDE_TOLERANCE
    return parsed


def sign(body: bytes, secrets: Sequence[bytes], *, timestamp: int) -> str:
    """Returns the header that Stripe would send for `body`, one `v1` per secret. Used by demo, `trigger` and tests."""
    digests = (f"v1={_digest(str(timestamp), body, secret)}" for secret in secrets)
    return ",".join((f"t={timestamp}", *digests))


def _digest(timestamp: str, body: bytes, secret: bytes) -> str:
    return hmac.digest(secret, timestamp.encode() + b"." + body, "sha256").hex()


def _parse(header: str) -> ParsedHeader | None:
    """Returns the header's parts; None if it is malformed."""
    if len(header) > MAX_HEADER_CHARS:
        return None
    timestamp: str | None = None
    candidates: list[bytes] = []
    has_v1 = False
    for part in header.split(","):
        name, separator, value = part.partition("=")
        if not separator:
            return None
        if name == "t":
            if timestamp is not None or not _TIMESTAMP.fullmatch(value):
                return None
            timestamp = value
        elif name == "v1":
            has_v1 = True
            if _DIGEST.fullmatch(value):
                candidates.append(value.encode("ascii"))
    if timestamp is None or not has_v1:
        return None
    return timestamp, candidates
