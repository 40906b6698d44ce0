"""Model of the subscription in `customer.subscription.*`, in one shape for all API versions.

Since 2025-03-31 (basil) the period is in the items. Very old samples have no items and only `plan`.
https://docs.stripe.com/api/subscriptions/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.statuses import SubscriptionStatus
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
    in_currency,
    listed,
    packages_of,
)


class SubscriptionItem(StripeObject):
    """One item with its price. `unit_amount` is in the subscription's currency, and `currency` is that currency."""

    id: Id | None = None
    price: Id | None = None
    name: Text = None
    """The price's nickname, or the plan's name (plans had one until 2018)."""
    product: ExpandableId | None = None
    quantity: Quantity | None = None
    unit_amount: Amount | None = None
    """None for a tiered price, one in fractions of the minor unit, or one of unknown amount in this currency."""
    currency: Currency | None = None
    usage_type: Text = None
    interval: Text = None
    interval_count: Count | None = None
    divide_by: Count | None = None
    """`transform_quantity`: the number of units in a package."""
    round: Text = None
    """`transform_quantity`: `up` or `down`."""


class StripeSubscription(StripeObject):
    """Its period is that of the item whose period ends first."""

    id: Id
    customer: ExpandableId | None = None
    status: SubscriptionStatus
    created: Moment | None = None
    currency: Currency | None = None
    items: tuple[SubscriptionItem, ...] = ()
    """Empty if the event names no price. Then the stored items stay as they are."""
    has_more_items: bool = False
    """Whether the event leaves items out: lists in events are cut."""
    current_period_start: Moment | None = None
    current_period_end: Moment | None = None
    trial_end: Moment | None = None
    latest_invoice: ExpandableId | None = None
    default_payment_method: ExpandableId | None = None
    """A payment method or a source. None: the customer's default is charged."""
    pending_update: bool = False
    """Whether a change waits for its payment (`payment_behavior=pending_if_incomplete`)."""
    cancel_at: Moment | None = None
    cancel_at_period_end: bool = False
    canceled_at: Moment | None = None
    cancellation_reason: Text = None
    """`cancellation_details.reason`: cancellation_requested, payment_failed or payment_disputed."""
    ended_at: Moment | None = None
    pause_collection: Text = None
    """The behavior of its invoices while the collection is paused: keep_as_draft, mark_uncollectible or void."""
    resumes_at: Moment | None = None
    """When the collection resumes."""
    collection_method: Text = None
    """`charge_automatically` or `send_invoice`."""
    trial_end_behavior: Text = None
    """What Stripe does when a trial ends without a payment method: create_invoice, pause or cancel."""
    user_id: Text = None
    """`metadata.userId`"""

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        items = _items(raw)
        start, end = _period(raw, items)
        pause = child(raw, "pause_collection")
        currency = first(raw.get("currency"), *(_price(item).get("currency") for item in items))
        return {
            **{name: raw.get(name) for name in _AS_SENT},
            "currency": currency,
            "items": [_item(item, currency) for item in items] if _names_a_price(items) else (),
            "has_more_items": child(raw, "items").get("has_more") is True,
            "current_period_start": start,
            "current_period_end": end,
            "default_payment_method": first(raw.get("default_payment_method"), raw.get("default_source")),
            "pending_update": bool(raw.get("pending_update")),
            "cancel_at_period_end": first(raw.get("cancel_at_period_end"), False),
            "cancellation_reason": child(raw, "cancellation_details").get("reason"),
            "pause_collection": pause.get("behavior"),
            "resumes_at": pause.get("resumes_at"),
            "trial_end_behavior": child(child(raw, "trial_settings"), "end_behavior").get("missing_payment_method"),
            "user_id": child(raw, "metadata").get("userId"),
        }


_AS_SENT = (
    "id",
    "customer",
    "status",
    "created",
    "trial_end",
    "latest_invoice",
    "cancel_at",
    "canceled_at",
    "ended_at",
    "collection_method",
)

_COMPARED = (
    *("status", "trial_end", "cancel_at", "cancel_at_period_end", "canceled_at", "ended_at"),
    *("current_period_start", "current_period_end"),
)
_COMPARED_IDS = ("latest_invoice", "default_payment_method")
COMPARED = (*_COMPARED, *_COMPARED_IDS, "pending_update", "pause_collection", "resumes_at")
"""The names that `previous_values` may have, without those of the items: `prices` and `quantity`."""


def previous_items(previous: Mapping[str, Any]) -> tuple[SubscriptionItem, ...]:
    """Returns the items in `previous_attributes` of an update; () if they did not change or cannot be read.

    Stripe does not promise the shape of these differences.
    """
    if not previous:
        return ()
    try:
        items = _items(previous)
        return tuple(SubscriptionItem.model_validate(_item(item, None)) for item in items if _price(item).get("id"))
    except ValueError:  # pydantic's errors included
        return ()


def previous_values(previous: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an update replaced, in JSON, for the fields in which two updates of one second can be ordered.

    Times are seconds since the epoch; `prices` are the ids of the items' prices, in alphabetical order.
    """
    if not previous:
        return {}
    values = {name: previous[name] for name in _COMPARED if name in previous}
    for name in _COMPARED_IDS:
        if name in previous:
            found = previous[name]
            values[name] = found.get("id") if isinstance(found, Mapping) else found
    if "pending_update" in previous:
        values["pending_update"] = bool(previous["pending_update"])
    if "pause_collection" in previous:
        pause = previous["pause_collection"] or {"behavior": None, "resumes_at": None}
        names = (("behavior", "pause_collection"), ("resumes_at", "resumes_at"))
        values |= {ours: pause[theirs] for theirs, ours in names if isinstance(pause, Mapping) and theirs in pause}
    if items := previous_items(previous):
        values["prices"] = sorted(item.price for item in items if item.price is not None)
        if len(items) == 1 and items[0].quantity is not None:
            values["quantity"] = items[0].quantity
    if isinstance(previous.get("quantity"), int):  # of the only item, in older API versions
        values.setdefault("quantity", previous["quantity"])
    return values


def _items(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the list of items; the subscription itself if it has only `plan`."""
    return listed(raw, "items") or ([raw] if raw.get("plan") else [])


def _names_a_price(items: list[Mapping[str, Any]]) -> bool:
    return any(_price(item).get("id") for item in items)


def _price(item: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("price", "plan"):
        value = item.get(name)
        if isinstance(value, str) and value:
            return {"id": value}
        if value:
            return child(item, name)
    return {}


def _item(item: Mapping[str, Any], currency: Any) -> dict[str, Any]:
    price = _price(item)
    recurring = child(price, "recurring")
    priced, packages = in_currency(price, currency), packages_of(price)
    return {
        "id": item.get("id") if item.get("object") != "subscription" else None,
        "price": price.get("id"),
        "name": price.get("nickname") or price.get("name"),
        "product": price.get("product"),
        "quantity": item.get("quantity"),
        "unit_amount": first(priced.get("unit_amount"), priced.get("amount")),
        "currency": first(currency, price.get("currency")),
        "usage_type": first(recurring.get("usage_type"), price.get("usage_type")),
        "interval": first(recurring.get("interval"), price.get("interval")),
        "interval_count": first(recurring.get("interval_count"), price.get("interval_count")),
        "divide_by": packages.get("divide_by"),
        "round": packages.get("round"),
    }


def _period(raw: Mapping[str, Any], items: list[Mapping[str, Any]]) -> tuple[Any, Any]:
    """Returns the period that ends first."""
    ends = [end for item in items if isinstance(end := item.get("current_period_end"), int)]
    if ends:
        return next(
            (i.get("current_period_start"), min(ends)) for i in items if i.get("current_period_end") == min(ends)
        )
    return raw.get("current_period_start"), raw.get("current_period_end")
