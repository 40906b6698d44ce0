"""Models of a connected account, and of the application that it has deauthorized.

https://docs.stripe.com/api/accounts/object
"""

from __future__ import annotations

from schemas.stripe.fields import Id, StripeObject


class StripeAccount(StripeObject):
    id: Id


class StripeApplication(StripeObject):
    id: Id
    """`ca_…`, the platform's application. The event's `account` names the account that deauthorized it."""
