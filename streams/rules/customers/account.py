"""Derives and saves customer, user, membership and organization when a rule changes a customer or a subscription.

A customer without a link to a user of the product has a stand-in user. Its row stays after the link is known, without
an address and without a membership, so that the result does not depend on the order of the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.effects import Effect, Remove, Save
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.state import Customer, Membership, Organization, Subscription, User
from streams.rules.customers.organization import derive_organization
from streams.rules.precedence import weak


def customer_or_blank(known: Known, account: str, customer_id: str) -> Customer:
    """Returns the customer's row, or a blank one: an event names the customer, so the customer exists."""
    return known.customer(account, customer_id) or Customer(account=account, customer_id=customer_id)


def was_erased_after(customer: Customer, event: Event[Any]) -> bool:
    """Whether the customer was erased after this event. Personal data of a late or replayed event is then ignored."""
    return customer.erased_at is not None and event.at <= customer.erased_at


def with_weak_profile(customer: Customer, event: Event[Any], email: str | None, name: str | None) -> Customer:
    """The customer with the address from an invoice or a checkout. Any `customer.*` event overrules it."""
    new_version = weak(event.version)
    if email is None or new_version <= customer.profile_version or was_erased_after(customer, event):
        return customer
    return replace(customer, email=email, name=name, profile_version=new_version)


def link_user(customer: Customer, event: Event[Any], user_id: str | None) -> Customer:
    """The customer linked to a user of the product; the newest link wins (behaviours.md B2)."""
    if user_id is None or event.version <= customer.user_version:
        return customer
    return replace(customer, user_id=user_id, user_version=event.version)


def subscriptions_with(known: Known, customer: Customer, *changed: Subscription) -> list[Subscription]:
    """The customer's subscriptions with the changed rows, ordered by id."""
    rows = {row.key: row for row in known.subscriptions_of(customer.account, customer.customer_id)}
    return [row for _, row in sorted((rows | {row.key: row for row in changed}).items())]


def save_customer_and_derived(known: Known, customer: Customer, *changed: Subscription) -> list[Effect]:
    """Saves the customer, the changed subscriptions, and the rows derived from them. Unchanged rows are left out.

    An organization exists from the customer's first subscription on, and has exactly one ADMIN.
    """
    effects: list[Effect] = []
    before = known.customer(customer.account, customer.customer_id)
    if customer != before:
        effects.append(Save(customer))
    effects += [Save(row) for row in changed if row != known.subscription(row.account, row.subscription_id)]
    subscriptions = subscriptions_with(known, customer, *changed)
    if subscriptions:
        effects += _organize(known, before, customer, subscriptions)
    return effects


def _organize(
    known: Known, before: Customer | None, customer: Customer, subscriptions: Sequence[Subscription]
) -> list[Effect]:
    effects: list[Effect] = []
    stored = known.organization(customer.account, customer.customer_id)
    organization = derive_organization(known.config, customer, subscriptions)
    if organization != stored:
        effects.append(Save(organization))
    stand_in = User.id_of(customer.account, customer.customer_id)
    admin = customer.user_id or stand_in
    users = [User(user_id=admin, email=customer.email)]
    if admin != stand_in:
        users.append(User(user_id=stand_in))
    effects += [Save(user) for user in users if user != known.user(user.user_id)]
    if known.membership(organization.organization_id, admin) is None:
        effects.append(Save(_membership(organization, admin)))
    former = {stand_in, before.user_id if before and before.user_id else stand_in} - {admin}
    effects += [
        Remove(present)
        for user_id in sorted(former)
        if (present := known.membership(organization.organization_id, user_id))
    ]
    return effects


def _membership(organization: Organization, user_id: str) -> Membership:
    return Membership(organization_id=organization.organization_id, user_id=user_id)
