"""All error responses of the webhook endpoint: HTTP status, metric label, and a reason that leaks nothing.

4xx: sending the same request again does not help. 503: it does, and Stripe retries for up to three days.
"""

from __future__ import annotations

from gateway.bodies import BodyBroken, BodyRefused, BodyTooLarge, BodyTooSlow, TooManyChunks
from gateway.publisher import NotStored, Overloaded
from gateway.signature import SignatureVerdict
from schemas.errors import BillingError
from schemas.settings import Mode


class RequestRefused(BillingError):
    """The request is not answered 200. `reason` is for the caller, `log_reason` for the operator."""

    def __init__(self, status: int, outcome: str, reason: str, *, log_reason: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.outcome = outcome
        self.reason = reason
        self.log_reason = log_reason or reason


def head_too_large() -> RequestRefused:
    return RequestRefused(400, "head_too_large", "the request's head is too large")


def http_version() -> RequestRefused:
    return RequestRefused(400, "http_version", "only HTTP/1.1 and HTTP/1.0 are served here")


def unknown_endpoint() -> RequestRefused:
    return RequestRefused(404, "unknown_endpoint", "no such endpoint")


def address_not_allowed() -> RequestRefused:
    return RequestRefused(403, "address_not_allowed", "this address may not post here")


def of_body(error: BodyRefused) -> RequestRefused:
    match error:
        case BodyTooLarge():
            return RequestRefused(413, "body_too_large", "the body is too large")
        case BodyTooSlow():
            return RequestRefused(408, "body_too_slow", "the body did not arrive in time")
        case TooManyChunks():
            return RequestRefused(400, "too_many_chunks", "the body has too many chunks")
        case BodyBroken():
            return RequestRefused(400, "body_broken", "the body is incomplete")
        case _:
            return RequestRefused(503, "overloaded", "too much at once, try again")


def of_signature(verdict: SignatureVerdict) -> RequestRefused:
    outcome = {
        SignatureVerdict.MISSING: "signature_missing",
        SignatureVerdict.MALFORMED: "signature_malformed",
        SignatureVerdict.OUTSIDE_TOLERANCE: "signature_outside_tolerance",
    }.get(verdict, "signature_mismatch")
    return RequestRefused(400, outcome, verdict.value)


def not_an_event(reason: str) -> RequestRefused:
    return RequestRefused(400, "not_an_event", reason)


def mode_mismatch(mode: Mode) -> RequestRefused:
    return RequestRefused(400, "mode_mismatch", f"this system takes {mode.value}-mode events only")


def connected_account() -> RequestRefused:
    return RequestRefused(400, "connected_account", "this endpoint takes no events of connected accounts")


def wrong_kind_of_event(takes_own: bool) -> RequestRefused:
    reason = (
        "this endpoint takes own events of plugins only" if takes_own else "own events have an endpoint of their own"
    )
    return RequestRefused(400, "wrong_kind_of_event", reason)


def internal_event() -> RequestRefused:
    return RequestRefused(400, "internal_event", "only this system's own processes make such events")


def record_too_large() -> RequestRefused:
    return RequestRefused(413, "record_too_large", "the event is larger than can be stored")


def not_stored(error: NotStored) -> RequestRefused:
    outcome = "overloaded" if isinstance(error, Overloaded) else "not_stored"
    return RequestRefused(503, outcome, "the event could not be stored, send it again", log_reason=str(error))
