"""Model of the charge in `charge.*`. Since 2025-03-31 (basil) a charge no longer names its invoice.

https://docs.stripe.com/api/charges/object
"""

from __future__ import annotations

from schemas.stripe.fields import Amount, Currency, ExpandableId, Id, Moment, StripeObject, Text


class StripeCharge(StripeObject):
    id: Id
    customer: ExpandableId | None = None
    invoice: ExpandableId | None = None
    payment_intent: ExpandableId | None = None
    amount: Amount
    amount_refunded: Amount = 0
    """The sum of all refunds of this charge at the time of the event."""
    currency: Currency
    created: Moment | None = None
    status: Text = None
    captured: bool = True
    """False while the payment is only authorized."""
    amount_captured: Amount | None = None
    """What was paid of `amount`. Missing in old versions of the API."""
    receipt_email: Text = None
    failure_message: Text = None
    source_transfer: ExpandableId | None = None
    """Set for the money that a platform's transfer brought to a connected account: no payment of a customer."""
