"""Model of the dispute in `charge.dispute.*`. Very old disputes name only the charge.

https://docs.stripe.com/api/disputes/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.stripe.fields import Amount, AnyCurrency, ExpandableId, Id, Moment, StripeObject, Text, child

LOST = "lost"
"""The bank decided for the customer, and the money is gone. Disputes of some debits (SEPA, ACH, BACS) are lost from the
start. Stripe may still win one back later."""

CLOSED = frozenset({"won", LOST, "warning_closed", "prevented", "charge_refunded"})
"""Statuses that need no more evidence. `charge_refunded` is from before 2021."""

UNDER_REVIEW = frozenset({"under_review", "warning_under_review"})
"""Statuses after the evidence has been submitted."""

INQUIRY = "warning_"
"""The statuses of an inquiry begin with it: no money has been withdrawn yet."""


class StripeDispute(StripeObject):
    id: Id
    amount: Amount
    currency: AnyCurrency
    charge: ExpandableId | None = None
    payment_intent: ExpandableId | None = None
    reason: Text = None
    status: str
    created: Moment | None = None
    """When the dispute was created; the same in each of its events."""
    due_by: Moment | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        due_by = child(raw, "evidence_details").get("due_by") or None  # 0 if no evidence can be submitted
        return {name: raw.get(name) for name in _AS_SENT} | {"due_by": due_by}


_AS_SENT = ("id", "amount", "currency", "charge", "payment_intent", "reason", "status", "created")
