"""Model of the Checkout Session in `checkout.session.*`.

https://docs.stripe.com/api/checkout/sessions/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.stripe.fields import (
    Amount,
    Currency,
    ExpandableId,
    Id,
    Moment,
    StripeObject,
    Text,
    address_of,
    child,
    first,
)


class CheckoutSession(StripeObject):
    id: Id
    mode: Literal["payment", "setup", "subscription"]
    payment_status: Literal["paid", "unpaid", "no_payment_required"] | None = None
    customer: ExpandableId | None = None
    """None for a guest."""
    subscription: ExpandableId | None = None
    invoice: ExpandableId | None = None
    payment_intent: ExpandableId | None = None
    amount_total: Amount | None = None
    currency: Currency | None = None
    email: Text = None
    name: Text = None
    user_id: Text = None
    """`metadata.userId`: only a server can set it"""
    created: Moment | None = None
    client_reference_id: Text = None
    """Anybody who has a payment link can set it."""
    address: Mapping[str, Any] = Field(default_factory=dict)
    plan_id: Text = None
    """`metadata.planId`"""
    creates_invoice: bool = False
    """Whether Stripe makes an invoice of a one-time purchase. The session may name it only in a later event."""

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        details, metadata = child(raw, "customer_details"), child(raw, "metadata")
        return {
            **{name: raw.get(name) for name in _AS_SENT},
            "mode": first(raw.get("mode"), _mode_before_2019(raw)),
            "email": first(details.get("email"), raw.get("customer_email")),
            "name": details.get("name"),
            "user_id": metadata.get("userId"),
            "address": address_of(details),
            "plan_id": metadata.get("planId"),
            "creates_invoice": child(raw, "invoice_creation").get("enabled") is True,
        }

    @property
    def is_paid(self) -> bool:
        """Returns whether nothing is left to pay, so that the purchase may be fulfilled."""
        return self.payment_status in ("paid", "no_payment_required")


_AS_SENT = (
    "id",
    "payment_status",
    "customer",
    "subscription",
    "invoice",
    "payment_intent",
    "created",
    "client_reference_id",
    "amount_total",
    "currency",
)


def _mode_before_2019(raw: Mapping[str, Any]) -> str:
    return "subscription" if raw.get("subscription") else "payment"
