"""Model of a payment method, or of the older card or source, in one shape.

`payment_method.*` has `{type, card: {…}}`. `customer.source.*` has a card with these fields at the top level, or a
source with the shape of a payment method. https://docs.stripe.com/api/payment_methods/object, https://docs.stripe.com/api/cards/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from schemas.stripe.fields import ExpandableId, Id, Moment, StripeObject, Text, child

Month = Annotated[int, Field(strict=True, ge=1, le=12)]
Year = Annotated[int, Field(strict=True, ge=2000, le=9998)]


class StripePaymentMethod(StripeObject):
    id: Id
    customer: ExpandableId | None = None
    """None once it is detached. `previous_attributes` of the event then has the customer."""
    type: Text = None
    brand: Text = None
    last4: Text = None
    exp_month: Month | None = None
    exp_year: Year | None = None
    """Month and year are set only for cards. The card is valid until the end of that month."""
    created: Moment | None = None
    """When the object was created; the same in each of its events."""

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        type_ = raw.get("type") or raw.get("object")
        details = raw if raw.get("object") in ("card", "bank_account") else child(raw, str(type_))
        return {
            "id": raw.get("id"),
            "customer": raw.get("customer"),
            "type": type_,
            "created": raw.get("created"),
            **{name: details.get(name) for name in ("brand", "last4", "exp_month", "exp_year")},
        }
