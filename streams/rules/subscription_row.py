"""Inside the rules: how a subscription's row takes in what events say of it, whatever their order.

Its groups of columns and who writes them: `version` (price, period, trial, cancellation) subscription events;
`status_version` (status) those and invoices; `billing_version` (failed payments) invoices; `checkout_version` (the plan
chosen at checkout) checkouts; `first_version` (the price it began with) the oldest subscription event. `plan` follows
from the others and is never decided by itself.
"""

from __future__ import annotations

from typing import Any

from schemas.event import Event
from schemas.fast_row import replace
from schemas.settings import FREE_PLAN, Config
from schemas.state import Subscription, SubscriptionStatus
from schemas.stripe.subscription import StripeSubscription
from schemas.version import UNSEEN, Version, version
from streams.rules.precedence import FIRST_INVOICE_FAILED, rank_of, weak

ENDED = frozenset({SubscriptionStatus.CANCELED, SubscriptionStatus.INCOMPLETE_EXPIRED})
"""Nothing comes after these under the same id."""

NEVER_BEGUN = frozenset({SubscriptionStatus.INCOMPLETE, SubscriptionStatus.INCOMPLETE_EXPIRED})
"""Its first payment has not come, or never will."""

_SAID_BY_STRIPE = (
    "price_id",
    "quantity",
    "unit_amount",
    "currency",
    "interval",
    "interval_count",
    "current_period_start",
    "current_period_end",
    "trial_end",
    "cancel_at_period_end",
    "canceled_at",
    "ended_at",
)


def blank(account: str, subscription_id: str, customer_id: str) -> Subscription:
    """A subscription that is referred to, and of which nothing else is known yet."""
    return Subscription(account=account, subscription_id=subscription_id, customer_id=customer_id)


def status_said(event: Event[StripeSubscription]) -> SubscriptionStatus:
    """The status in the event. `deleted` means canceled, whatever its object says (behaviours.md B4)."""
    return SubscriptionStatus.CANCELED if event.terminal else event.object.status


def version_of(event: Event[StripeSubscription]) -> Version:
    """The version of what a subscription event says: terminal where its status is, whatever the event's type."""
    return version(event.created, event.rank, event.id, terminal=status_said(event) in ENDED)


def has_same_content(event: Event[StripeSubscription], row: Subscription) -> bool:
    """Whether the event leaves nothing to ask Stripe about, since the row says the same."""
    said = _said(event.object)
    return all(said[name] == getattr(row, name) for name in _SAID_BY_STRIPE) and status_said(event) is row.status


def apply_subscription_event(row: Subscription, event: Event[StripeSubscription], config: Config) -> Subscription:
    """The row after a `customer.subscription.*` event."""
    word, status = version_of(event), status_said(event)
    changes: dict[str, Any] = {}
    if word > row.version:
        changes |= _said(event.object) | {"version": word}
    if row.first_version == UNSEEN or event.version < row.first_version:
        changes |= {"first_price_id": event.object.price_id, "first_version": event.version}
    if word >= row.status_version:
        changes |= {"status": status, "status_version": word}
    elif word > row.version and rank_of(row.status_version) == FIRST_INVOICE_FAILED:
        changes |= {"status": _after_first_failure(status)}
    return _with_plan(replace(row, **changes), config)


def apply_checkout_event(
    row: Subscription, event: Event[Any], plan_id: str | None, *, has_begun: bool, config: Config
) -> Subscription:
    """The row after a finished checkout: the plan chosen there and, until Stripe says more, that it is active."""
    changes: dict[str, Any] = {}
    if plan_id is not None and event.version > row.checkout_version:
        changes |= {"checkout_plan": plan_id, "checkout_version": event.version}
    if has_begun and weak(event.version) > row.status_version:
        changes |= {"status": SubscriptionStatus.ACTIVE, "status_version": weak(event.version)}
    return _with_plan(replace(row, **changes), config)


def apply_invoice_paid(
    row: Subscription, event: Event[Any], *, bills_subscription: bool, config: Config
) -> Subscription:
    """The row after a paid invoice. One that bills no time of the subscription (a trial) leaves the status."""
    changes: dict[str, Any] = {}
    if event.version > row.billing_version:
        changes |= {"payment_failed_at": None, "payment_attempts": 0, "billing_version": event.version}
    if bills_subscription and event.version > row.status_version:
        changes |= {"status": SubscriptionStatus.ACTIVE, "status_version": event.version}
    return _with_plan(replace(row, **changes), config)


def apply_invoice_closed(row: Subscription, event: Event[Any]) -> Subscription:
    """The row after an invoice that is owed no more. Its status is Stripe's to say."""
    if event.version <= row.billing_version:
        return row
    return replace(row, payment_failed_at=None, payment_attempts=0, billing_version=event.version)


def apply_invoice_failed(
    row: Subscription, event: Event[Any], attempts: int, *, is_first: bool, config: Config
) -> Subscription:
    """The row after a failed payment: past due, but for a subscription that never began and so stays incomplete."""
    changes: dict[str, Any] = {}
    if event.version > row.billing_version:
        changes |= {"payment_failed_at": event.at, "payment_attempts": attempts, "billing_version": event.version}
    word = version(event.created, FIRST_INVOICE_FAILED, event.id) if is_first else event.version
    if word > row.status_version:
        is_said = row.status_version != UNSEEN
        status = _after_first_failure(row.status) if is_first and is_said else SubscriptionStatus.PAST_DUE
        changes |= {"status": status, "status_version": word}
    return _with_plan(replace(row, **changes), config)


def plan_bought(row: Subscription, config: Config) -> str | None:
    """The plan that was paid for, also when the subscription is over. None for a price that no plan names."""
    if row.checkout_plan is not None and row.price_id == row.first_price_id:
        return row.checkout_plan
    return config.plan_of_price(row.price_id)


def _after_first_failure(status: SubscriptionStatus) -> SubscriptionStatus:
    is_incomplete = status is SubscriptionStatus.INCOMPLETE
    return SubscriptionStatus.INCOMPLETE if is_incomplete else SubscriptionStatus.PAST_DUE


def _said(subscription: StripeSubscription) -> dict[str, Any]:
    return {name: getattr(subscription, name) for name in _SAID_BY_STRIPE}


def _with_plan(row: Subscription, config: Config) -> Subscription:
    plan = FREE_PLAN if row.status in ENDED else plan_bought(row, config)
    return row if plan == row.plan else replace(row, plan=plan)
