"""Model of the customer in `customer.created`, `updated` and `deleted` (a deleted one may have only its id).

https://docs.stripe.com/api/customers/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from schemas.stripe.fields import ExpandableId, Id, StripeObject, Text, address_of, child, first


class StripeCustomer(StripeObject):
    id: Id
    email: Text = None
    name: Text = None
    locale: Text = None
    """The first of `preferred_locales`."""
    default_payment_method: ExpandableId | None = None
    """A payment method, or a source (the older kind of object)."""
    address: Mapping[str, Any] = Field(default_factory=dict)
    user_id: Text = None
    """`metadata.userId`"""

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        locales = raw.get("preferred_locales")
        settings = child(raw, "invoice_settings")
        return {
            "id": raw.get("id"),
            "email": raw.get("email"),
            "name": raw.get("name"),
            "locale": locales[0] if isinstance(locales, list) and locales else None,
            "default_payment_method": first(settings.get("default_payment_method"), raw.get("default_source")),
            "address": address_of(raw),
            "user_id": child(raw, "metadata").get("userId"),
        }


PROFILE_FIELDS = frozenset({"email", "name", "preferred_locales"})
ADDRESS_FIELDS = frozenset({"address"})
DEFAULT_FIELDS = frozenset({"invoice_settings", "default_source"})
"""The names in `previous_attributes` of the fields that this model reads."""
