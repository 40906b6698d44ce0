"""Model of the object that links an invoice to its payment intent or charge since 2025-03-31 (basil).

https://docs.stripe.com/api/invoice-payment/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.stripe.fields import ExpandableId, Id, StripeObject, child


class StripeInvoicePayment(StripeObject):
    id: Id
    invoice: ExpandableId
    charge: ExpandableId | None = None
    payment_intent: ExpandableId | None = None
    """Both are None if the payment was made out of band."""

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        payment = child(raw, "payment")
        return {
            "id": raw.get("id"),
            "invoice": raw.get("invoice"),
            "charge": payment.get("charge"),
            "payment_intent": payment.get("payment_intent"),
        }
