"""The event by which `billing plans apply` has one customer's plan, limits and access derived again (behaviours.md F6).

    {"object": "event", "id": "pln_…", "type": "plans.applied", "created": now, "livemode": …, "api_version": null,
     "account": … (only a connected one), "data": {"object": {"object": "plans", "customer": "cus_…"}}}

It has the format of a Stripe event, like a timer's (schemas/timer.py). It names no plan: the worker derives by its own
config, so an event that is processed late is right, too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.state import derived_id

PLANS_APPLIED = "plans.applied"
PLANS_PREFIX = "pln"
"""The first part of the ids of these events."""


class PlansApplied(BaseModel):
    """`data.object` of the event."""

    model_config = ConfigDict(frozen=True)

    customer: str = Field(min_length=1)


def plans_event(account: str, customer_id: str, *, at: datetime, livemode: bool) -> dict[str, Any]:
    """Returns the event of one customer. Its id has the time, so that each run of the command counts."""
    return {
        "object": "event",
        "id": derived_id(PLANS_PREFIX, account, customer_id, at.isoformat()),
        "type": PLANS_APPLIED,
        "created": int(at.timestamp()),
        "livemode": livemode,
        "api_version": None,
        **({"account": account} if account else {}),
        "data": {"object": {"object": "plans", "customer": customer_id}},
    }
