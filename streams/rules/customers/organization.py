"""Derives a customer's organization from the customer and their subscriptions alone.

It has no version of its own. It is derived again after each change of those rows, and for everyone when the config
changes, so it does not depend on the order of the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from schemas.settings import Config
from schemas.state import Customer, Organization, Subscription
from schemas.statuses import OrganizationStatus, SubscriptionStatus
from schemas.version import UNSEEN
from streams.rules.customers.access import RANK, derive_access, renews_at
from streams.rules.subscription_row import ENDED, NEVER_BEGUN

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

_UNPAID = (SubscriptionStatus.PAST_DUE, SubscriptionStatus.UNPAID)


def derive_organization(config: Config, customer: Customer, subscriptions: Sequence[Subscription]) -> Organization:
    """The organization of a customer with at least one subscription, running or ended. Takes the changed rows."""
    status = _status(customer, subscriptions)
    access = derive_access(config, customer, subscriptions)
    renewals = [end for row in subscriptions if (end := renews_at(row)) is not None]
    return Organization(
        organization_id=Organization.id_of(customer.account, customer.customer_id),
        account=customer.account,
        customer_id=customer.customer_id,
        name=organization_name(customer, subscriptions),
        billing_email=customer.email,
        status=status,
        billing_status=_billing_status(subscriptions),
        plan=access.plan,
        limits=access.limits,
        has_access=access.has_access,
        access_reason=access.reason,
        access_changes_at=access.changes_at,
        access_until=access.until,
        access_after=access.after,
        next_billing_at=min(renewals, default=None) if access.has_access else None,
        cancelled_at=_cancelled_at(customer, subscriptions) if status is OrganizationStatus.CANCELLED else None,
    )


def organization_name(customer: Customer, subscriptions: Sequence[Subscription]) -> str:
    return customer.name or f"Organization {_first(subscriptions).subscription_id}"


def _status(customer: Customer, subscriptions: Sequence[Subscription]) -> OrganizationStatus:
    """The status of the best subscription. A failed payment of another one that runs shows too."""
    if customer.deleted_at is not None:
        return OrganizationStatus.CANCELLED
    if any(row.status in _UNPAID for row in subscriptions):
        return OrganizationStatus.PAYMENT_FAILED
    return _STATUS[min((row.status for row in subscriptions), key=RANK.__getitem__)]


def _first(subscriptions: Sequence[Subscription]) -> Subscription:
    """The customer's first subscription. Rows without a subscription event so far are last in the order."""
    return min(subscriptions, key=lambda row: (row.first_version == UNSEEN, row.first_version, row.subscription_id))


def _billing_status(subscriptions: Sequence[Subscription]) -> str | None:
    """`failed` while a running subscription has a failed invoice that is owed, else `paid` if any invoice was paid.

    The first try of another subscription says nothing about one that runs, so it counts only if there is no other.
    """
    running = [row for row in subscriptions if row.status not in ENDED]
    begun = [row for row in running if row.status not in NEVER_BEGUN] or running
    if any(row.status in _UNPAID or row.failed_invoice is not None for row in begun):
        return "failed"
    is_paid = any("paid" in fact for row in subscriptions for fact in row.invoices.values())
    return "paid" if is_paid else None


def _cancelled_at(customer: Customer, subscriptions: Sequence[Subscription]) -> datetime | None:
    ends = [row.ended_at or row.canceled_at for row in subscriptions]
    return max((end for end in [*ends, customer.deleted_at] if end is not None), default=None)
