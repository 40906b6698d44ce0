"""What a subscription charges next, and to which payment method: decisions on present rows, without any read.

`methods` are the payment methods that are stored of the subscription's customer, detached ones included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from schemas.state import Customer, Organization, PaymentMethod, Subscription
from schemas.statuses import SubscriptionStatus
from schemas.stripe.invoice import SEND_INVOICE
from schemas.version import UNSEEN, seconds_of

CHARGED = frozenset({SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIALING, SubscriptionStatus.PAST_DUE})
"""Statuses in which Stripe charges the next invoice. Those of an unpaid or paused subscription stay drafts."""

AfterTrial = Literal["charged", "invoiced", "free", "method_missing", "ends", "pauses"]


def ends_by(subscription: Subscription, at: datetime | None) -> bool:
    """Whether the subscription is set to end by this time, or at the end of its period."""
    if subscription.cancel_at_period_end:
        return True
    return subscription.cancel_at is not None and (at is None or subscription.cancel_at <= at)


def charges_again(subscription: Subscription, by: datetime | None = None) -> bool:
    """Whether an automatic payment is to come: none of a free plan. `by`: not if it ends before this time."""
    if subscription.status not in CHARGED or subscription.collection_method == SEND_INVOICE or is_free(subscription):
        return False
    return not ends_by(subscription, by or subscription.current_period_end)


def is_charged_to(
    method_id: str, subscription: Subscription, customer: Customer | None, methods: Sequence[PaymentMethod]
) -> bool:
    """Whether the subscription is charged to this method: its own, else the customer's default, else the only one."""
    own = subscription.default_payment_method
    default = customer.default_payment_method if customer is not None else None
    if own is not None or default is not None:
        return (own or default) == method_id
    return all(other.payment_method_id == method_id or other.detached_at is not None for other in methods)


def lacks_method(subscription: Subscription, customer: Customer | None, methods: Sequence[PaymentMethod]) -> bool:
    """Whether it is known that there is nothing to charge: an event of the customer has named no default either."""
    if subscription.default_payment_method is not None or any(one.detached_at is None for one in methods):
        return False
    return customer is not None and customer.default_version != UNSEEN and customer.default_payment_method is None


def after_trial(
    subscription: Subscription, customer: Customer | None, methods: Sequence[PaymentMethod]
) -> AfterTrial | None:
    """Returns what happens when the trial ends; None if that is not known.

    It is not while the collection is paused, and before an event has named the collection method.
    """
    if subscription.pause_collection is not None:
        return None
    if is_free(subscription):
        return "free"
    if subscription.collection_method is None:
        return None
    if subscription.collection_method == SEND_INVOICE:
        return "invoiced"
    if not lacks_method(subscription, customer, methods):
        return "charged"
    return {"cancel": "ends", "pause": "pauses"}.get(subscription.trial_end_behavior or "", "method_missing")  # type: ignore[return-value]  # the values are AfterTrial's


def items_have_changed(
    subscription: Subscription, billed: Sequence[str], announced_at: datetime, items_then: Sequence[str] | None
) -> bool:
    """Whether an announced invoice bills other items than the subscription has, because these have changed since.

    They also differ without any change if a schedule changes the price with the renewal. `billed` and `items_then` are
    `price:quantity`; `items_then` is None if the items at `announced_at` are not known.
    """
    if bills_items(subscription, billed) or subscription.item_quantities == items_then:
        return False
    seconds = seconds_of(subscription.items_version)
    return seconds is None or seconds > announced_at.timestamp()


def bills_items(subscription: Subscription, billed: Sequence[str]) -> bool:
    """Whether `price:quantity` of an announced invoice are the subscription's items of now; usage has any quantity.

    Tiers of one price have a line each. Their quantities add up to the item's.
    """
    found = _quantities(billed)
    licensed = _quantities(
        f"{item['price']}:{item['quantity']}" for item in subscription.items if item["usage_type"] != "metered"
    )
    prices = {item["price"] for item in subscription.items}
    return not prices or (licensed.items() <= found.items() and found.keys() <= prices)


def _quantities(items: Iterable[str]) -> dict[str, int]:
    """The quantity by price."""
    found: dict[str, int] = {}
    for price, _, quantity in (item.rpartition(":") for item in items):
        found[price] = found.get(price, 0) + (int(quantity) if quantity.isdecimal() else 0)
    return found


def is_free(subscription: Subscription) -> bool:
    """Whether every item has a fixed price of 0."""
    items = subscription.items
    return bool(items) and all(item["unit_amount"] == 0 and item["usage_type"] != "metered" for item in items)


def expiry_of(row: PaymentMethod) -> datetime | None:
    """The first moment (UTC) at which the card is no longer valid; None for a method without an expiry."""
    if row.exp_year is None or row.exp_month is None:
        return None
    is_december = row.exp_month == 12  # the last month
    return datetime(row.exp_year + is_december, 1 if is_december else row.exp_month + 1, 1, tzinfo=UTC)


def has_access_at(row: Organization, now: datetime) -> bool:
    """Whether the organization has access at this time (UTC): the last grace time that is over decides."""
    over = [step for at, step in row.access_steps if at <= now]
    return bool(over[-1]["has_access"]) if over else row.has_access
