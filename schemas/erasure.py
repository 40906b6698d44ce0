"""The event by which `billing erase` has one customer's personal data erased (behaviours.md B6).

    {"object": "event", "id": "ers_…", "type": "erasure.requested", "created": now, "livemode": …, "api_version": null,
     "account": … (only a connected one),
     "data": {"object": {"object": "erasure", "customer": "cus_…", "by": …, "reason": …, "even_if_running": …}}}

It has the format of a Stripe event, like a timer's (schemas/timer.py). It goes through the log, so it is applied in the
order of the customer's events, and a rebuild erases at the same place.

A guest has no state and no order, and is erased directly. The event `guest_erasure.requested` only records that on the
log, so that a database without it (a restored backup, a rebuild) can be erased again:

    {"data": {"object": {"object": "guest_erasure", "guest": "guest:…", "by": …, "reason": …}}, …}
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.state import derived_id

ERASURE_REQUESTED = "erasure.requested"
GUEST_ERASURE = "guest_erasure.requested"
ERASURE_PREFIX = "ers"
"""The first part of the ids of these events."""


class ErasureRequested(BaseModel):
    """`data.object` of the event."""

    model_config = ConfigDict(frozen=True)

    customer: str = Field(min_length=1)
    by: str = Field(min_length=1)
    """The operator."""
    reason: str
    """Why, without personal data: it is kept in the audit log."""
    even_if_running: bool = False
    """Whether the operator has confirmed the erasure of a customer with a running subscription."""


def erasure_event(
    account: str, customer_id: str, *, by: str, reason: str, even_if_running: bool, at: datetime, livemode: bool
) -> dict[str, Any]:
    """Returns the event of one customer. Its id has the time, so that each run of the command counts."""
    return {
        "object": "event",
        "id": derived_id(ERASURE_PREFIX, account, customer_id, at.isoformat()),
        "type": ERASURE_REQUESTED,
        "created": int(at.timestamp()),
        "livemode": livemode,
        "api_version": None,
        **({"account": account} if account else {}),
        "data": {
            "object": {
                "object": "erasure",
                "customer": customer_id,
                "by": by,
                "reason": reason,
                "even_if_running": even_if_running,
            }
        },
    }


def guest_erasure_event(
    account: str, guest: str, *, by: str, reason: str, at: datetime, livemode: bool
) -> dict[str, Any]:
    """Returns the event of one guest, given by the digest of the address (schemas/ordering.py, guest_key)."""
    return {
        "object": "event",
        "id": derived_id(ERASURE_PREFIX, account, guest, at.isoformat()),
        "type": GUEST_ERASURE,
        "created": int(at.timestamp()),
        "livemode": livemode,
        "api_version": None,
        **({"account": account} if account else {}),
        "data": {"object": {"object": "guest_erasure", "guest": guest, "by": by, "reason": reason}},
    }
