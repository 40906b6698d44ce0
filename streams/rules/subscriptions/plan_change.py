"""The mail about a change of price (behaviours.md B3): one for each change, in any order of the events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.effects import QueueEmail
from schemas.event import Event
from schemas.known import Known
from schemas.state import Customer, Subscription
from schemas.stripe.subscription import StripeSubscription, previous_items
from streams.rules.mails import mail, money, plan_name, plan_name_of, price_of
from streams.rules.subscription_row import NEVER_BEGUN, main_item, plain_items
from streams.rules.subscriptions import price_changes


def mails(
    known: Known, event: Event[StripeSubscription], before: Subscription | None, row: Subscription, customer: Customer
) -> list[QueueEmail]:
    """Returns the mail about the change that this event made or showed, if the row still has the new price."""
    config = known.config
    item = main_item(plain_items(event.object.items), config)
    if item is None or item["price"] != row.price_id or event.object.status in NEVER_BEGUN:
        return []
    named = main_item(plain_items(previous_items(event.previous)), config)
    is_named = named is not None and named["price"] != row.price_id
    known_changes = price_changes.count(before.price_changes) if before is not None else 0
    changes = price_changes.count(row.price_changes)
    if not is_named and changes <= known_changes:
        return []
    stored = _stored(before) if before is not None and before.price_id != row.price_id else {}
    former = named if is_named and named is not None else stored
    former_price = former.get("price") or price_changes.price_before(row.price_changes, event.created)
    if former_price is None or former_price == row.price_id:
        return []
    data = {
        "plan": plan_name_of(config, row) or row.price_id,
        "previous_plan": plan_name(config, _plan_of_former(known, row, former_price), former.get("name")),
        "price": price_of(row),
        "previous_price": _price(former, row),
        "interval": row.interval,
        "interval_count": row.interval_count or 1,
        "previous_interval": former.get("interval"),
        "previous_interval_count": former.get("interval_count") or 1,
        "quantity": row.quantity,
        "previous_quantity": former.get("quantity"),
    }
    return [mail("plan-changed", f"plan-changed:{row.subscription_id}:{changes}", customer, data)]


def _stored(row: Subscription) -> dict[str, Any]:
    return {
        "price": row.price_id,
        "unit_amount": row.price_of_unit,
        "currency": row.currency,
        "interval": row.interval,
        "interval_count": row.interval_count,
        "quantity": row.quantity,
    }


def _price(former: Mapping[str, Any], row: Subscription) -> dict[str, Any] | None:
    """The former price of one unit, if it is in the subscription's currency."""
    if former.get("usage_type") == "metered" or former.get("divide_by") is not None:
        return None
    amount, currency = former.get("unit_amount"), former.get("currency")
    return money(amount, currency) if amount is not None and currency == row.currency and currency else None


def _plan_of_former(known: Known, row: Subscription, price_id: str) -> str | None:
    if price_id == row.first_price_id and row.checkout_plan in known.config.plans:
        return row.checkout_plan
    return known.config.plan_of_price(price_id)
