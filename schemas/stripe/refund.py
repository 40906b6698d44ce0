"""Model of the refund in `refund.*` and `charge.refund.updated`.

https://docs.stripe.com/api/refunds/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.stripe.charge import StripeCharge
from schemas.stripe.fields import Amount, Currency, ExpandableId, Id, StripeObject, Text

LOST = frozenset({"failed", "canceled"})
"""Statuses of a refund that returned no money."""

_OF_CHARGE = (
    *("id", "object", "customer", "invoice", "payment_intent", "amount", "amount_refunded", "currency"),
    "source_transfer",
)


class StripeRefund(StripeObject):
    id: Id
    amount: Amount
    currency: Currency
    charge: ExpandableId | None = None
    payment_intent: ExpandableId | None = None
    status: Text = None
    charge_read: StripeCharge | None = None
    """The charge as it is at the time of the event. Only refunds that we have read at Stripe have it, expanded."""

    @model_validator(mode="before")
    @classmethod
    def _keep_charge(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("charge"), Mapping):
            return {**data, "charge_read": data["charge"]}
        return data


def with_charge(refund: Mapping[str, Any], charge: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the refund with its charge expanded, without the payer's address and card: no rule needs them."""
    return {**refund, "charge": {name: charge[name] for name in _OF_CHARGE if name in charge}}
