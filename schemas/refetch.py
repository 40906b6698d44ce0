"""Turns an object fetched from Stripe's API into an event, so that it goes through the log like any other (D2).

    {"object": "event", "id": "ref_…", "type": "customer.subscription.updated", "created": see below,
     "livemode": …, "api_version": …, "account": … (only a connected one), "data": {"object": Stripe's response},
     "request": {"id": "req_…", "idempotency_key": null}}

The event id is derived from the call's key, so a response that is appended twice is one event. `created` is the latest
second at which the object certainly had this state, so the event overwrites older states and never a newer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.errors import BillingError
from schemas.state import derived_id

REFETCH_PREFIX = "ref"
"""The first part of the ids of these events."""
TYPES = {
    "account": "account.updated",
    "charge": "charge.updated",
    "customer": "customer.updated",
    "dispute": "charge.dispute.updated",
    "invoice": "invoice.updated",
    "payment_method": "payment_method.updated",
    "payout": "payout.updated",
    "refund": "refund.updated",
    "subscription": "customer.subscription.updated",
}
"""`object` of the response → the type of the event that reports the present state of such an object."""

_DELETED = {"customer": "customer.deleted"}
"""For a deleted customer Stripe returns only `{id, object, deleted: true}`."""


def is_refetched(event_id: str) -> bool:
    """Returns whether the event was made of an object that was fetched, and so shows more than its type says."""
    return event_id.startswith(f"{REFETCH_PREFIX}_")


class NoEventForObject(BillingError):
    """No event type reports the present state of such an object. The message names the object."""


def refetched_event(
    call_key: str,
    answer: Mapping[str, Any],
    *,
    at: datetime,
    account: str,
    livemode: bool,
    api_version: str | None,
    request_id: str | None,
) -> dict[str, Any]:
    """Returns the event for a response. `account` is '' for the platform's own. Raises NoEventForObject."""
    kind, object_id = answer.get("object"), answer.get("id")
    types = _DELETED if answer.get("deleted") is True else TYPES
    if not isinstance(kind, str) or kind not in types or not isinstance(object_id, str):
        name = kind if isinstance(kind, str) else "such a response"
        raise NoEventForObject(f"no event type reports the state of {name}")
    return {
        "object": "event",
        "id": derived_id(REFETCH_PREFIX, call_key),
        "type": types[kind],
        "created": int(at.timestamp()),
        "livemode": livemode,
        "api_version": api_version,
        **({"account": account} if account else {}),
        "data": {"object": answer},
        "request": {"id": request_id, "idempotency_key": None},
    }
