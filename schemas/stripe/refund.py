"""Model of the refund in `refund.*` and `charge.refund.updated`.

https://docs.stripe.com/api/refunds/object
"""

from __future__ import annotations

from schemas.stripe.fields import Amount, Currency, ExpandableId, Id, StripeObject, Text

LOST = frozenset({"failed", "canceled"})
"""Statuses of a refund that returned no money."""


class StripeRefund(StripeObject):
    id: Id
    amount: Amount
    currency: Currency
    charge: ExpandableId | None = None
    payment_intent: ExpandableId | None = None
    status: Text = None
