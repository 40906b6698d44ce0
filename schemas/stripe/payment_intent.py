"""Model of the payment intent in `payment_intent.*`, in one shape for all API versions.

Until 2025-03-31 (basil) an intent named its invoice. Since then the intents that Stripe creates for invoices have the
invoice id in `payment_details.order_reference`. Until 2022-11-15 the charge was in `charges`, newest first.
https://docs.stripe.com/api/payment_intents/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.stripe.fields import Amount, Currency, ExpandableId, Id, StripeObject, Text, child, first, listed

_INVOICE_ID = "in_"


class StripePaymentIntent(StripeObject):
    id: Id
    customer: ExpandableId | None = None
    invoice: ExpandableId | None = None
    charge: ExpandableId | None = None
    amount: Amount
    currency: Currency
    amount_received: Amount | None = None
    capture_method: Text = None
    receipt_email: Text = None
    failure_reason: Text = None

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        charges = listed(raw, "charges")
        reference = child(raw, "payment_details").get("order_reference")
        is_invoice = isinstance(reference, str) and reference.startswith(_INVOICE_ID)
        return {
            **{name: raw.get(name) for name in _AS_SENT},
            "invoice": first(raw.get("invoice"), reference if is_invoice else None),
            "charge": first(raw.get("latest_charge"), charges[0].get("id") if charges else None),
            "failure_reason": child(raw, "last_payment_error").get("message"),
        }

    @property
    def is_captured_manually(self) -> bool:
        """Whether the payment is only authorized first, so that the checkout ends before it is paid."""
        return self.capture_method == "manual"


_AS_SENT = ("id", "customer", "amount", "currency", "amount_received", "capture_method", "receipt_email")
