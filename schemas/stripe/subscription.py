"""Model of the subscription in `customer.subscription.*`, in one shape for all API versions.

Since 2025-03-31 (basil) the period is in the items. Very old samples have no items and only `plan`.
https://docs.stripe.com/api/subscriptions/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.state import SubscriptionStatus
from schemas.stripe.fields import (
    Amount,
    Count,
    Currency,
    ExpandableId,
    Id,
    Moment,
    Quantity,
    StripeObject,
    Text,
    child,
    first,
    listed,
)


class StripeSubscription(StripeObject):
    """Price, quantity and period are those of the first item in Stripe's list."""

    id: Id
    customer: ExpandableId | None = None
    status: SubscriptionStatus
    created: Moment | None = None
    price_id: Id | None = None
    price_name: Text = None
    """The price's nickname, or the plan's name (plans had one until 2018)."""
    quantity: Quantity | None = None
    unit_amount: Amount | None = None
    """None for a tiered price, or for a price in fractions of the minor unit."""
    currency: Currency | None = None
    interval: Text = None
    interval_count: Count | None = None
    current_period_start: Moment | None = None
    current_period_end: Moment | None = None
    trial_end: Moment | None = None
    cancel_at_period_end: bool = False
    canceled_at: Moment | None = None
    ended_at: Moment | None = None
    user_id: Text = None
    """`metadata.userId`"""

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        items = listed(raw, "items")
        item = items[0] if items else {}
        price = _price(item, "price") or _price(item, "plan") or _price(raw, "plan")
        recurring = child(price, "recurring")
        return {
            **{name: raw.get(name) for name in _AS_SENT},
            "price_id": price.get("id"),
            "price_name": price.get("nickname") or price.get("name"),
            "quantity": first(item.get("quantity"), raw.get("quantity")),
            "unit_amount": first(price.get("unit_amount"), price.get("amount")),
            "currency": first(price.get("currency"), raw.get("currency")),
            "interval": first(recurring.get("interval"), price.get("interval")),
            "interval_count": first(recurring.get("interval_count"), price.get("interval_count")),
            "current_period_start": first(item.get("current_period_start"), raw.get("current_period_start")),
            "current_period_end": first(item.get("current_period_end"), raw.get("current_period_end")),
            "cancel_at_period_end": first(raw.get("cancel_at_period_end"), False),
            "user_id": child(raw, "metadata").get("userId"),
        }


_AS_SENT = ("id", "customer", "status", "created", "trial_end", "canceled_at", "ended_at")


def previous_price_id(previous: Mapping[str, Any]) -> str | None:
    """Returns the price in `previous_attributes` of an update, None if the price did not change."""
    try:
        items = listed(previous, "items")
        item = items[0] if items else {}
        price = _price(item, "price") or _price(item, "plan") or _price(previous, "plan")
    except ValueError:
        return None  # Stripe does not promise the shape of these differences
    price_id = price.get("id")
    return price_id if isinstance(price_id, str) and price_id else None


def _price(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    return {"id": value} if isinstance(value, str) else child(parent, name)
