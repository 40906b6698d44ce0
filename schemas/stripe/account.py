"""Before the rules: a connected account, and the application it has left.

https://docs.stripe.com/api/accounts/object
"""

from __future__ import annotations

from schemas.stripe.fields import Id, StripeObject


class StripeAccount(StripeObject):
    id: Id


class StripeApplication(StripeObject):
    id: Id
    """`ca_…`, the platform's own: which account left it stands in the event's envelope."""
