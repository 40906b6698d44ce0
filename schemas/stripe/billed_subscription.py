"""Model of the subscription in `customer.subscription.*` with all items and their prices, for analytics.

https://docs.stripe.com/api/subscriptions/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from schemas.statuses import SubscriptionStatus
from schemas.stripe.discount import Terms, discounts_of
from schemas.stripe.fields import (
    Currency,
    ExpandableId,
    Id,
    Quantity,
    StripeObject,
    Text,
    child,
    first,
    in_currency,
    listed,
    packages_of,
)

_DECIMAL = r"^\d{1,18}(\.\d{1,12})?$"
"""Stripe's `unit_amount_decimal`: at most twelve places."""


class BilledItem(StripeObject):
    """One item. `unit_amount` is a decimal number of minor units as text, of `divide_by` units if that is set.

    It is None for a tiered or metered price, and where the event lacks the amount in the subscription's currency.
    """

    price_id: Id
    unit_amount: Annotated[str, Field(pattern=_DECIMAL)] | None = None
    quantity: Quantity = 1
    divide_by: Annotated[int, Field(strict=True, ge=1, lt=2**31)] | None = None
    """`transform_quantity`: the number of units in a package."""
    is_rounded_up: bool = False
    """`transform_quantity`: whether a package that is begun counts."""
    interval: Text = None
    interval_count: Annotated[int, Field(strict=True, ge=1, lt=10_000)] = 1
    is_usage: bool = False
    """Whether Stripe bills it by usage or by tiers, so that only its invoices have the amount."""
    discounts: tuple[str, ...] = ()
    """Ids of the item's own discounts, in order."""


class BilledSubscription(StripeObject):
    id: Id
    customer: ExpandableId | None = None
    latest_invoice: ExpandableId | None = None
    status: SubscriptionStatus
    currency: Currency | None = None
    is_collecting: bool = True
    """False while `pause_collection` is set: its invoices are not collected."""
    items: tuple[BilledItem, ...] = ()
    discounts: tuple[str, ...] = ()
    """Ids of the subscription's discounts, in order; `terms` has what is known about them and those of the items."""
    terms: tuple[Terms, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        # Very old samples have no items and only `plan`.
        items = listed(raw, "items") or ([raw] if raw.get("plan") else [])
        prices = [_price(item) for item in items]
        currency = first(raw.get("currency"), *(price.get("currency") for price in prices))
        discounts, terms = discounts_of(raw)
        of_items = [discounts_of(item) for item in items if item is not raw]
        return {
            "id": raw.get("id"),
            "customer": raw.get("customer"),
            "latest_invoice": raw.get("latest_invoice"),
            "status": raw.get("status"),
            "currency": currency,
            "is_collecting": raw.get("pause_collection") is None,
            "items": [billed_item(item, price, currency) for item, price in zip(items, prices, strict=True)],
            "discounts": discounts,
            "terms": [*terms, *(one for _, known in of_items for one in known)],
        }


def _price(item: Mapping[str, Any]) -> Mapping[str, Any]:
    price = item.get("price")
    return price if isinstance(price, Mapping) else child(item, "plan")


def billed_item(item: Mapping[str, Any], price: Mapping[str, Any], currency: Any) -> dict[str, Any]:
    """Returns the fields of BilledItem of an item, or a line, and its price. `currency` is the subscription's."""
    recurring = child(price, "recurring")
    usage = first(recurring.get("usage_type"), price.get("usage_type"))
    priced = in_currency(price, currency)
    is_usage = usage == "metered" or first(priced.get("billing_scheme"), price.get("billing_scheme")) == "tiered"
    packages = packages_of(price)
    return {
        "price_id": price.get("id"),
        "unit_amount": None if is_usage else _unit_amount(priced),
        "quantity": first(item.get("quantity"), 1),
        "divide_by": packages.get("divide_by"),
        "is_rounded_up": packages.get("round") == "up",
        "interval": first(recurring.get("interval"), price.get("interval")),
        "interval_count": first(recurring.get("interval_count"), price.get("interval_count"), 1),
        "is_usage": is_usage,
        "discounts": discounts_of(item)[0] if item.get("object") == "subscription_item" else (),
    }


def _unit_amount(price: Mapping[str, Any]) -> str | None:
    exact = first(price.get("unit_amount_decimal"), price.get("amount_decimal"))
    whole = first(price.get("unit_amount"), price.get("amount"))
    return str(first(exact, whole)) if first(exact, whole) is not None else None
