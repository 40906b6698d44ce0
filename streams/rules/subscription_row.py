"""Applies events to a subscription's row, in any order.

The row's groups of columns, each with its version, and the events that write them:

    version            price, period, trial, cancellation    subscription events
    status_version     status                                subscription events, invoices, checkouts (weak)
    billing_version    failed payments                       invoices
    checkout_version   the plan chosen at checkout           checkouts
    first_version      the price at the start                the oldest subscription event

`plan` is derived from the other columns.
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
"""Final statuses: a subscription with the same id never leaves them."""

NEVER_BEGUN = frozenset({SubscriptionStatus.INCOMPLETE, SubscriptionStatus.INCOMPLETE_EXPIRED})
"""The first payment is pending, or it never arrived."""

_STRIPE_FIELDS = (
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
    """Returns a subscription of which only the id and the customer are known."""
    return Subscription(account=account, subscription_id=subscription_id, customer_id=customer_id)


def status_of(event: Event[StripeSubscription]) -> SubscriptionStatus:
    """The status in the event. `deleted` means canceled, whatever status its object has (behaviours.md B4)."""
    return SubscriptionStatus.CANCELED if event.terminal else event.object.status


def version_of(event: Event[StripeSubscription]) -> Version:
    """The version that a subscription event writes: terminal if its status is final, whatever the event's type."""
    return version(event.created, event.rank, event.id, terminal=status_of(event) in ENDED)


def has_same_content(event: Event[StripeSubscription], row: Subscription) -> bool:
    """Whether the row has the event's values already, so that a tie need not be settled with Stripe."""
    fields = _fields(event.object)
    return all(fields[name] == getattr(row, name) for name in _STRIPE_FIELDS) and status_of(event) is row.status


def apply_subscription_event(row: Subscription, event: Event[StripeSubscription], config: Config) -> Subscription:
    """The row after a `customer.subscription.*` event."""
    new_version, status = version_of(event), status_of(event)
    changes: dict[str, Any] = {}
    if new_version > row.version:
        changes |= _fields(event.object) | {"version": new_version}
    if row.first_version == UNSEEN or event.version < row.first_version:
        changes |= {"first_price_id": event.object.price_id, "first_version": event.version}
    if new_version >= row.status_version:
        changes |= {"status": status, "status_version": new_version}
    elif new_version > row.version and rank_of(row.status_version) == FIRST_INVOICE_FAILED:
        changes |= {"status": _after_first_failure(status)}
    return _with_plan(replace(row, **changes), config)


def apply_checkout_event(
    row: Subscription, event: Event[Any], plan_id: str | None, *, has_begun: bool, config: Config
) -> Subscription:
    """The row after a completed checkout: the chosen plan and, until a stronger version, the status active."""
    changes: dict[str, Any] = {}
    if plan_id is not None and event.version > row.checkout_version:
        changes |= {"checkout_plan": plan_id, "checkout_version": event.version}
    if has_begun and weak(event.version) > row.status_version:
        changes |= {"status": SubscriptionStatus.ACTIVE, "status_version": weak(event.version)}
    return _with_plan(replace(row, **changes), config)


def apply_invoice_paid(
    row: Subscription, event: Event[Any], *, bills_subscription: bool, config: Config
) -> Subscription:
    """The row after a paid invoice. An invoice that bills no time (a trial) does not change the status."""
    changes: dict[str, Any] = {}
    if event.version > row.billing_version:
        changes |= {"payment_failed_at": None, "payment_attempts": 0, "billing_version": event.version}
    if bills_subscription and event.version > row.status_version:
        changes |= {"status": SubscriptionStatus.ACTIVE, "status_version": event.version}
    return _with_plan(replace(row, **changes), config)


def apply_invoice_closed(row: Subscription, event: Event[Any]) -> Subscription:
    """The row after a voided invoice: no failed payment. The status stays; subscription events change it."""
    if event.version <= row.billing_version:
        return row
    return replace(row, payment_failed_at=None, payment_attempts=0, billing_version=event.version)


def apply_invoice_failed(
    row: Subscription, event: Event[Any], attempts: int, *, is_first: bool, config: Config
) -> Subscription:
    """The row after a failed payment: past due, or still incomplete if the subscription never started."""
    changes: dict[str, Any] = {}
    if event.version > row.billing_version:
        changes |= {"payment_failed_at": event.at, "payment_attempts": attempts, "billing_version": event.version}
    new_version = version(event.created, FIRST_INVOICE_FAILED, event.id) if is_first else event.version
    if new_version > row.status_version:
        has_status = row.status_version != UNSEEN
        status = _after_first_failure(row.status) if is_first and has_status else SubscriptionStatus.PAST_DUE
        changes |= {"status": status, "status_version": new_version}
    return _with_plan(replace(row, **changes), config)


def plan_bought(row: Subscription, config: Config) -> str | None:
    """The plan that was bought, also after the subscription's end. None if no plan has the price."""
    if row.checkout_plan is not None and row.price_id == row.first_price_id:
        return row.checkout_plan
    return config.plan_of_price(row.price_id)


def _after_first_failure(status: SubscriptionStatus) -> SubscriptionStatus:
    is_incomplete = status is SubscriptionStatus.INCOMPLETE
    return SubscriptionStatus.INCOMPLETE if is_incomplete else SubscriptionStatus.PAST_DUE


def _fields(subscription: StripeSubscription) -> dict[str, Any]:
    return {name: getattr(subscription, name) for name in _STRIPE_FIELDS}


def _with_plan(row: Subscription, config: Config) -> Subscription:
    plan = FREE_PLAN if row.status in ENDED else plan_bought(row, config)
    return row if plan == row.plan else replace(row, plan=plan)
