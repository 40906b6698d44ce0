"""Derives a customer's organization from the customer and their subscriptions alone.

It has no version of its own. It is derived again after each change of those rows, so it does not depend on the order of
the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from schemas.settings import FREE_PLAN, Config
from schemas.state import Customer, Organization, OrganizationStatus, Subscription, SubscriptionStatus
from schemas.version import UNSEEN
from streams.rules.subscription_row import ENDED, NEVER_BEGUN

_BEST_FIRST = (
    SubscriptionStatus.ACTIVE,
    SubscriptionStatus.TRIALING,
    SubscriptionStatus.PAST_DUE,
    SubscriptionStatus.UNPAID,
    SubscriptionStatus.PAUSED,
    SubscriptionStatus.INCOMPLETE,
    SubscriptionStatus.CANCELED,
    SubscriptionStatus.INCOMPLETE_EXPIRED,
)

_RANK = {status: at for at, status in enumerate(_BEST_FIRST)}

_WITHOUT_ACCESS = NEVER_BEGUN | ENDED

_STATUS = {
    SubscriptionStatus.ACTIVE: OrganizationStatus.ACTIVE,
    SubscriptionStatus.TRIALING: OrganizationStatus.TRIALING,
    SubscriptionStatus.PAST_DUE: OrganizationStatus.PAYMENT_FAILED,
    SubscriptionStatus.UNPAID: OrganizationStatus.PAYMENT_FAILED,
    SubscriptionStatus.PAUSED: OrganizationStatus.PAUSED,
    SubscriptionStatus.INCOMPLETE: OrganizationStatus.INCOMPLETE,
    SubscriptionStatus.CANCELED: OrganizationStatus.CANCELLED,
    SubscriptionStatus.INCOMPLETE_EXPIRED: OrganizationStatus.CANCELLED,
}


def derive_organization(config: Config, customer: Customer, subscriptions: Sequence[Subscription]) -> Organization:
    """The organization of a customer with at least one subscription, running or ended. Takes the changed rows."""
    best = min(subscriptions, key=lambda row: (_RANK[row.status], row.subscription_id))
    status = _status(customer, subscriptions, best)
    has_access = status is not OrganizationStatus.CANCELLED and best.status not in _WITHOUT_ACCESS
    plan = best.plan if has_access else FREE_PLAN
    return Organization(
        organization_id=Organization.id_of(customer.account, customer.customer_id),
        account=customer.account,
        customer_id=customer.customer_id,
        name=customer.name or f"Organization {_first(subscriptions).subscription_id}",
        billing_email=customer.email,
        status=status,
        billing_status=_billing_status(subscriptions),
        plan=plan,
        limits=config.limits_of_plan(plan),
        next_billing_at=best.current_period_end if has_access and not best.cancel_at_period_end else None,
        cancelled_at=_cancelled_at(customer, subscriptions) if status is OrganizationStatus.CANCELLED else None,
    )


def _status(customer: Customer, subscriptions: Sequence[Subscription], best: Subscription) -> OrganizationStatus:
    if customer.deleted_at is not None:
        return OrganizationStatus.CANCELLED
    # A failed payment shows even if another subscription is paid, or if none has started.
    unpaid = (row for row in subscriptions if row.status not in ENDED)
    if any(row.payment_failed_at or _STATUS[row.status] is OrganizationStatus.PAYMENT_FAILED for row in unpaid):
        return OrganizationStatus.PAYMENT_FAILED
    return _STATUS[best.status]


def _first(subscriptions: Sequence[Subscription]) -> Subscription:
    """The customer's first subscription. Rows without a subscription event so far are last in the order."""
    return min(subscriptions, key=lambda row: (row.first_version == UNSEEN, row.first_version, row.subscription_id))


def _billing_status(subscriptions: Sequence[Subscription]) -> str | None:
    newest = max(subscriptions, key=lambda row: row.billing_version)
    if newest.billing_version == UNSEEN:
        return None
    return "failed" if newest.payment_failed_at else "paid"


def _cancelled_at(customer: Customer, subscriptions: Sequence[Subscription]) -> datetime | None:
    ends = [row.ended_at or row.canceled_at for row in subscriptions]
    return max((end for end in [*ends, customer.deleted_at] if end is not None), default=None)
