"""Model of the payout in `payout.*`. https://docs.stripe.com/api/payouts/object"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.stripe.fields import Amount, AnyCurrency, ExpandableId, Id, StripeObject, Text


class StripePayout(StripeObject):
    """An alert must not fail because of an amount, so `amount` and `currency` are None unless both are valid."""

    id: Id
    amount: Amount | None = None
    currency: AnyCurrency | None = None
    stated_amount: Text = None
    """The amount as in the event, if it is not valid."""
    destination: ExpandableId | None = None
    failure_message: Text = None

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        amount, currency = raw.get("amount"), raw.get("currency")
        is_amount = isinstance(amount, int) and not isinstance(amount, bool) and abs(amount) < _MOST
        is_valid = is_amount and isinstance(currency, str) and re.fullmatch("[a-z]{3}", currency) is not None
        return {
            **{name: raw.get(name) for name in ("id", "destination", "failure_message")},
            "amount": amount if is_valid else None,
            "currency": currency if is_valid else None,
            "stated_amount": None if is_valid else f"{amount} {currency}",
        }


_MOST = 2**63
