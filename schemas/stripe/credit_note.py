"""Model of the credit note in `credit_note.*`. https://docs.stripe.com/api/credit_notes/object"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.stripe.fields import Amount, ExpandableId, Id, Moment, StripeObject, Text, first

_BEFORE_PAYMENT = "pre_payment"


class StripeCreditNote(StripeObject):
    id: Id
    invoice: ExpandableId
    customer: ExpandableId | None = None
    amount: Amount
    """What the note takes off an open invoice, in minor units; 0 for a note on a paid one, which is a refund."""
    status: Text = None
    created: Moment
    voided_at: Moment | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        before_payment = raw.get("amount") if raw.get("type") == _BEFORE_PAYMENT else 0
        return {
            **{name: raw.get(name) for name in ("id", "invoice", "customer", "status", "created", "voided_at")},
            "amount": first(raw.get("pre_payment_amount"), before_payment),
        }

    @property
    def is_void(self) -> bool:
        return self.status == "void"
