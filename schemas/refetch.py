"""What Stripe answers when asked for an object, as an event: so that it takes effect through the one door (D2).

    {"object": "event", "id": "ref_…", "type": "customer.subscription.updated", "created": when it was so,
     "livemode": …, "api_version": …, "account": … (only a connected one), "data": {"object": Stripe's answer},
     "request": {"id": "req_…", "idempotency_key": null}}

Its id follows from the call's key: an answer appended twice is one event. `created` is the latest second at which the
object certainly was as the answer says, so the event overrules what is older and never what is newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.state import derived_id

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
"""By `object` of the answer: the snapshot event that says "this is how it is now"."""

_DELETED = {"customer": "customer.deleted"}
"""Stripe answers a deleted customer with just `{id, object, deleted: true}`."""


class NoEventForObject(Exception):
    """No type of event says how such an object is now; the message names it."""


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
    """The event of an answer. `account` is '' for one's own. Raises NoEventForObject."""
    kind, object_id = answer.get("object"), answer.get("id")
    types = _DELETED if answer.get("deleted") is True else TYPES
    if not isinstance(kind, str) or kind not in types or not isinstance(object_id, str):
        raise NoEventForObject(f"no event says how {kind if isinstance(kind, str) else 'such an answer'} is now")
    return {
        "object": "event",
        "id": derived_id("ref", call_key),
        "type": types[kind],
        "created": int(at.timestamp()),
        "livemode": livemode,
        "api_version": api_version,
        **({"account": account} if account else {}),
        "data": {"object": answer},
        "request": {"id": request_id, "idempotency_key": None},
    }
