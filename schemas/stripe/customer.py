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
    """`preferred_locales`, in their order, separated by commas."""
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
            "locale": ",".join(_plain(locales)) or None,
            "default_payment_method": first(settings.get("default_payment_method"), raw.get("default_source")),
            "address": address_of(raw),
            "user_id": child(raw, "metadata").get("userId"),
        }


def _plain(locales: object) -> list[str]:
    found = locales if isinstance(locales, list) else []
    return [one for one in found if isinstance(one, str) and "," not in one and len(one) <= _LONGEST_LOCALE][:_LOCALES]


_LOCALES, _LONGEST_LOCALE = 10, 35


PROFILE_FIELDS = frozenset({"email", "name", "preferred_locales"})
ADDRESS_FIELDS = frozenset({"address"})
DEFAULT_FIELDS = frozenset({"invoice_settings", "default_source"})
"""The names in `previous_attributes` of the fields that this model reads."""
