"""Model of a card issuer's warning in `radar.early_fraud_warning.*`.

https://docs.stripe.com/api/radar/early_fraud_warnings/object
"""

from __future__ import annotations

from schemas.stripe.fields import ExpandableId, Id, StripeObject, Text


class EarlyFraudWarning(StripeObject):
    id: Id
    charge: ExpandableId
    payment_intent: ExpandableId | None = None
    fraud_type: Text = None
    actionable: bool = False
    """False if the charge is already refunded or disputed."""
