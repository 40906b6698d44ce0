"""Before the rules: a card issuer's warning as `radar.early_fraud_warning.*` carries it.

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
    """False where it was refunded or disputed already."""
