"""Model of the invoice in `invoice.finalization_failed`: an alert needs no amounts, so none can make it fail.

https://docs.stripe.com/api/invoices/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.stripe.fields import Id, StripeObject, Text, child


class UnfinalizedInvoice(StripeObject):
    id: Id
    code: Text = None
    reason: Text = None

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        error = child(raw, "last_finalization_error")
        return {"id": raw.get("id"), "code": error.get("code"), "reason": error.get("message")}
