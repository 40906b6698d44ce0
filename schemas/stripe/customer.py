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


def previous_values(previous: Mapping[str, Any], after: StripeCustomer) -> dict[str, Any]:
    """Returns what an update replaced, in the form of the model. Of a nested object it has only the parts that changed.

    Stripe does not promise the shape of these differences, so what cannot be read is left out.
    """
    values: dict[str, Any] = {name: previous[name] or None for name in ("email", "name") if name in previous}
    if "preferred_locales" in previous:
        values["locale"] = ",".join(_plain(previous["preferred_locales"])) or None
    if "address" in previous:
        parts = previous["address"]
        values["address"] = address_of({"address": {**after.address, **parts}}) if isinstance(parts, Mapping) else {}
    settings = previous.get("invoice_settings")
    if isinstance(settings, Mapping) and "default_payment_method" in settings:
        values["default_payment_method"] = _id_of(settings["default_payment_method"])
    elif "default_source" in previous and not (after.default_payment_method or "").startswith(_PAYMENT_METHOD):
        values["default_payment_method"] = _id_of(previous["default_source"])
    return values


_PAYMENT_METHOD = "pm_"
"""Ids of payment methods. One of them as the default comes before any default source."""


def _id_of(value: object) -> object:
    return value.get("id") if isinstance(value, Mapping) else value


def _plain(locales: object) -> list[str]:
    found = locales if isinstance(locales, list) else []
    return [one for one in found if isinstance(one, str) and "," not in one and len(one) <= _LONGEST_LOCALE][:_LOCALES]


_LOCALES, _LONGEST_LOCALE = 10, 35


PROFILE_FIELDS = frozenset({"email", "name", "preferred_locales"})
ADDRESS_FIELDS = frozenset({"address"})
DEFAULT_FIELDS = frozenset({"invoice_settings", "default_source"})
"""The names in `previous_attributes` of the fields that this model reads."""
