"""Before the rules: a charge as `charge.*` carries it. Since 2025-03-31 (basil) it no longer names its invoice.

https://docs.stripe.com/api/charges/object
"""

from __future__ import annotations

from schemas.stripe.fields import Amount, Currency, ExpandableId, Id, StripeObject, Text


class StripeCharge(StripeObject):
    id: Id
    customer: ExpandableId | None = None
    invoice: ExpandableId | None = None
    payment_intent: ExpandableId | None = None
    amount: Amount
    amount_refunded: Amount = 0
    """All refunds of this charge together, as of the event."""
    currency: Currency
    failure_message: Text = None
