"""Model of the payout in `payout.*`. https://docs.stripe.com/api/payouts/object"""

from __future__ import annotations

from schemas.stripe.fields import Amount, Currency, ExpandableId, Id, StripeObject, Text


class StripePayout(StripeObject):
    id: Id
    amount: Amount
    currency: Currency
    destination: ExpandableId | None = None
    failure_message: Text = None
