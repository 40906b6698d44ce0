"""Derives and saves customer, user, membership and organization when a rule changes a customer or a subscription.

A customer without a link to a user of the product has a stand-in user. Its row stays after the link is known, without
an address and without a membership, so that the result does not depend on the order of the events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from schemas.effects import Effect, Remove, Save
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.state import Customer, Membership, Organization, Subscription, User
from schemas.version import UNSEEN, Version, is_tie
from streams.rules.customers import newest
from streams.rules.customers.organization import derive_organization
from streams.rules.precedence import WEAK, is_partial, partial, weak
from streams.rules.subscription_row import ENDED, NEVER_BEGUN

_STAND_IN = re.compile(r"usr_[0-9a-f]{12}5[0-9a-f]{3}[89ab][0-9a-f]{15}", re.ASCII)
"""What `User.id_of` returns. Whoever knows the id of a customer can compute the id of its stand-in user."""


def customer_or_blank(known: Known, account: str, customer_id: str) -> Customer:
    """Returns the customer's row, or a blank one: an event names the customer, so the customer exists."""
    return known.customer(account, customer_id) or Customer(account=account, customer_id=customer_id)


def is_personal_data_barred(customer: Customer, event: Event[Any]) -> bool:
    """Whether no personal data of this event is stored: the customer is erased, or was erased after it (B6)."""
    return customer.is_erased or (customer.erased_at is not None and event.at <= customer.erased_at)


def returned(customer: Customer, began: datetime | None) -> Customer:
    """The customer after a subscription or a purchase that began at this time (UTC): it ends an earlier erasure.

    A customer who was deleted at Stripe cannot return.
    """
    if began is None or customer.erased_at is None or began <= customer.erased_at or customer.deleted_at is not None:
        return customer
    return replace(customer, returned_at=max(began, customer.returned_at or began))


def with_weak_profile(
    customer: Customer, event: Event[Any], *, email: str | None, name: str | None, address: Mapping[str, Any]
) -> Customer:
    """The customer with what an invoice or a checkout shows. Any `customer.*` event overrules it.

    What the object does not have says nothing about the customer.
    """
    if is_personal_data_barred(customer, event):
        return customer
    new_version = weak(event.version)
    changes: dict[str, Any] = {}
    if email is not None and new_version > customer.profile_version:
        changes |= {"email": email, "profile_version": new_version}
    if name is not None and new_version > name_version(customer):
        changes |= {"name": name, "name_version": new_version}
    if address and new_version > customer.address_version:
        changes |= {"address": address, "address_version": new_version}
    return replace(customer, **changes) if changes else customer


def name_version(customer: Customer) -> Version:
    """The version of the name. A row of before revision 0018 has one version for the whole profile."""
    if customer.name_version == UNSEEN and not customer.profile_version.startswith(WEAK):
        return customer.profile_version
    return customer.name_version


def link_user(customer: Customer, event: Event[Any], user_id: str | None, *, by_buyer: bool = False) -> Customer:
    """The customer linked to a user of the product; the newest link wins (behaviours.md B2).

    An event links only if it mentions the link: the object is new, or `previous_attributes` names its metadata. Others
    show a link that existed before, so of those the oldest counts, and only if no event mentions one. A link that a
    buyer can choose (`client_reference_id`) is the weakest, and never leads to the stand-in user of a customer.
    """
    if user_id is None or (by_buyer and _STAND_IN.fullmatch(user_id)):
        return customer
    stored = customer.user_version
    if by_buyer:
        new_version = weak(event.version)
        is_newer = new_version > stored
    elif _mentions_link(event):
        user_id, new_version, customer = _latest_link(customer, event, user_id)
        is_newer = new_version > stored or is_tie(new_version, stored)
    else:
        new_version = partial(event.version)
        is_newer = new_version < stored if is_partial(stored) else new_version > stored
    since = new_version
    if user_id == customer.user_id:
        since = min(new_version, customer.linked_since or stored, key=_moment)
    elif not is_newer:
        return customer
    linked = replace(customer, user_id=user_id, linked_since=since)
    return replace(linked, user_version=new_version) if is_newer else linked


def _latest_link(customer: Customer, event: Event[Any], user_id: str) -> tuple[str, Version, Customer]:
    """Returns the user and the version of this link, or of the one in its second that is known to be the latest."""
    metadata = event.previous.get("metadata")
    previous = {"user_id": metadata["userId"]} if isinstance(metadata, Mapping) and "userId" in metadata else {}
    shown = {"user_id": user_id}
    found = newest.settled(customer, newest.USER, customer.user_version, event.version, shown, previous)
    if found is None:
        return user_id, event.version, customer
    facts, version, customer = found
    if facts["user_id"] not in (user_id, customer.user_id):
        return user_id, event.version, customer  # a third user, whose row the event does not refer to
    return facts["user_id"], version, customer


def _mentions_link(event: Event[Any]) -> bool:
    if event.type.endswith(".created") or event.type.startswith("checkout."):
        return True
    metadata = event.previous.get("metadata")
    return isinstance(metadata, Mapping) and (not metadata or "userId" in metadata)


def _moment(version: Version) -> str:
    return version[version.find(":") + 1 :]


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
        return effects + _organize(known, before, customer, subscriptions)
    return effects + _readdress(known, before, customer)


def _readdress(known: Known, before: Customer | None, customer: Customer) -> list[Effect]:
    """Saves the users that the customer is or was linked to, and who exist because of another of their customers."""
    linked = {row.user_id for row in (before, customer) if row is not None and row.user_id is not None}
    users = [
        user_with_address(known, user_id, customer)
        for user_id in sorted(linked)
        if known.user(customer.account, user_id) is not None
    ]
    return [Save(user) for user in users if user != known.user(user.account, user.user_id)]


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
    former = {stand_in, before.user_id if before and before.user_id else stand_in} - {admin}
    users = [user_with_address(known, user_id, customer) for user_id in (admin, *sorted(former))]
    effects += [Save(user) for user in users if user != known.user(user.account, user.user_id)]
    if known.membership(organization.organization_id, admin) is None:
        effects.append(Save(_membership(organization, admin)))
    effects += [
        Remove(present)
        for user_id in sorted(former)
        if (present := known.membership(organization.organization_id, user_id))
    ]
    return effects


def user_with_address(known: Known, user_id: str, customer: Customer) -> User:
    """The user with the address of the customer that was linked first and has one; `customer` is not saved yet.

    So a second customer of a user never changes the address, unless the first one has none.
    """
    stored = known.user(customer.account, user_id) or User(account=customer.account, user_id=user_id)
    linked = {
        row.customer_id: (row.linked_since or row.user_version, row.email)
        for row in known.customers_of_user(customer.account, user_id)
    }
    if stored.address_of is not None:  # newer than the row of that customer, which is not locked
        linked[stored.address_of] = (stored.address_since, stored.email)
    linked.pop(customer.customer_id, None)
    if user_id in (
        customer.user_id,
        User.id_of(customer.account, customer.customer_id) if not customer.user_id else "",
    ):
        linked[customer.customer_id] = (customer.linked_since or customer.user_version, customer.email)
    with_one = [(_strength(since), id_, since, email) for id_, (since, email) in linked.items() if email is not None]
    if not with_one:
        return replace(stored, email=None, address_of=None, address_since=UNSEEN)
    _, customer_id, since, email = min(with_one)
    return replace(stored, email=email, address_of=customer_id, address_since=since)


def _strength(since: Version) -> tuple[bool, str]:
    """Orders links: those that a buyer has chosen are last, then by time."""
    return since.startswith(WEAK), _moment(since)


def is_in_use_by_another(known: Known, customer: Customer) -> bool:
    """Whether the user of this customer has another Stripe customer with a running subscription."""
    return any(row.status not in ENDED | NEVER_BEGUN for row in subscriptions_of_user(known, customer))


def subscriptions_of_user(known: Known, customer: Customer) -> list[Subscription]:
    """The subscriptions of the other customers of this customer's user."""
    if customer.user_id is None:
        return []
    found = known.subscriptions_of_user(customer.account, customer.user_id)
    return [row for row in found if row.customer_id != customer.customer_id]


def _membership(organization: Organization, user_id: str) -> Membership:
    return Membership(organization_id=organization.organization_id, user_id=user_id)
