"""The rules of stream `customers`: `customer.created`, `updated`, `deleted`, and erasure (behaviours.md C11, B6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.effects import Effect, NoteStale
from schemas.erasure import ERASURE_REQUESTED, ErasureRequested
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.plans import PLANS_APPLIED, PlansApplied
from schemas.references import References
from schemas.state import Customer
from schemas.stripe.customer import ADDRESS_FIELDS, DEFAULT_FIELDS, PROFILE_FIELDS, StripeCustomer, previous_values
from schemas.timer import TimerDue, timer_event_type
from schemas.version import Version
from streams.rules import timers
from streams.rules.customers import cancellation, erasure, newest
from streams.rules.customers.account import (
    customer_or_blank,
    is_personal_data_barred,
    link_user,
    save_customer_and_derived,
)
from streams.rules.customers.default_method import with_default
from streams.rules.mails import iso, mail
from streams.rules.precedence import is_older, partial
from streams.rules.registry import Stream
from streams.rules.subscription_row import rederived
from streams.rules.ties import ask_stripe

stream = Stream("customers")

CustomerEvent = Event[StripeCustomer]


def refer_plans(event: Event[PlansApplied]) -> References:
    return References(customers={(event.account, event.object.customer)})


def refer_erasure(event: Event[ErasureRequested]) -> References:
    return References(customers={(event.account, event.object.customer)})


def refer(event: CustomerEvent) -> References:
    customer, default = event.object, event.object.default_payment_method
    return References(
        customers={(event.account, customer.id)},
        payment_methods={(event.account, default)} if default else set(),
        timers=cancellation.timer_keys(event.account, customer.id),
        users={(event.account, customer.user_id)} if customer.user_id else set(),
    )


@stream.on("customer.created", model=StripeCustomer, refer=refer, rank=10)
def on_created(event: CustomerEvent, known: Known) -> list[Effect]:
    return _profile(event, known)


@stream.on("customer.updated", model=StripeCustomer, refer=refer, rank=50)
def on_updated(event: CustomerEvent, known: Known) -> list[Effect]:
    """C11. Fields that the event did not change overrule only weak and older partial ones.

    A fetch, a repair, and some senders name no previous attributes. Then the whole object counts.
    """
    return _profile(event, known)


@stream.on("customer.deleted", model=StripeCustomer, refer=refer, rank=90)
def on_deleted(event: CustomerEvent, known: Known) -> list[Effect]:
    """B6. The customer's data stays until the erasure timer fires. The object may contain only the id.

    One mail has the link to the export. It is withheld if the mail about a subscription's end has one too.
    """
    before = customer_or_blank(known, event.account, event.object.id)
    customer = replace(before, deleted_at=max(before.deleted_at or event.at, event.at))
    export = cancellation.order_export(known, event, customer.customer_id)
    waiting = cancellation.after_deletion(known, event, customer.customer_id)
    effects = [*save_customer_and_derived(known, customer), waiting, export]
    if customer.email is None:
        return effects
    data = {
        "canceled_at": iso(event.at),
        "export_id": export.key,
        "erase_at": iso(waiting.due_at),
        "reason": "customer_deleted",
    }
    return [*effects, mail("subscription-canceled", f"deleted:{customer.customer_id}", customer, data)]


@stream.on(PLANS_APPLIED, model=PlansApplied, refer=refer_plans, rank=90)
def on_plans_applied(event: Event[PlansApplied], known: Known) -> list[Effect]:
    """F6. Derives the customer's plan, limits and access again by this worker's config. It sends nothing."""
    customer = known.customer(event.account, event.object.customer)
    if customer is None:
        return []
    rows = known.subscriptions_of(event.account, customer.customer_id)
    return save_customer_and_derived(known, customer, *(rederived(row, known.config) for row in rows))


@stream.on(ERASURE_REQUESTED, model=ErasureRequested, refer=refer_erasure, rank=95)
def on_erasure_requested(event: Event[ErasureRequested], known: Known) -> list[Effect]:
    """B6. `billing erase`: erases now, whether or not the customer has left."""
    return erasure.erase_on_request(known, event)


@stream.on(timer_event_type(cancellation.ERASE), model=TimerDue, refer=cancellation.refer_leaving)
def on_erase_due(event: Event[TimerDue], known: Known) -> list[Effect]:
    """B6. Erases nothing while a subscription is running or another one ended later."""
    if event.object.customer is None or not timers.is_due(event, known):
        return []
    return erasure.erase(known, event, event.object.customer)


def _version_of(event: CustomerEvent, fields: frozenset[str]) -> Version:
    """Two updates of one second may change different fields, and each shows the others as they were or will be."""
    is_whole = not event.previous or not fields.isdisjoint(event.previous)
    return event.version if is_whole else partial(event.version)


def _profile(event: CustomerEvent, known: Known) -> list[Effect]:
    before = customer_or_blank(known, event.account, event.object.id)
    received, previous = event.object, previous_values(event.previous, event.object)
    customer = before if is_personal_data_barred(before, event) else _with_profile(before, event, previous)
    new_version = _version_of(event, DEFAULT_FIELDS)
    customer = with_default(known, customer, received.default_payment_method, new_version, previous)
    customer = link_user(customer, event, received.user_id)
    effects = save_customer_and_derived(known, customer)
    if newest.is_undecided(before, customer):
        path = f"/v1/customers/{customer.customer_id}"
        effects.append(ask_stripe(event, path, customer.customer_id, customer.customer_id))
    if customer.profile_version == before.profile_version and is_older(event.version, before.profile_version):
        effects.append(NoteStale(f"{customer.customer_id} already has a newer version"))
    return effects


def _with_profile(row: Customer, event: CustomerEvent, previous: Mapping[str, Any]) -> Customer:
    received = event.object
    shown = {name: getattr(received, name) for name in (*newest.PROFILE, *newest.ADDRESS)}
    version = _version_of(event, PROFILE_FIELDS)
    found = newest.settled(row, newest.PROFILE, row.profile_version, version, shown, previous)
    if found is not None:
        facts, version, row = found
        row = replace(row, **facts, profile_version=version, name_version=version)
    version = _version_of(event, ADDRESS_FIELDS)
    found = newest.settled(row, newest.ADDRESS, row.address_version, version, shown, previous)
    if found is not None:
        facts, version, row = found
        row = replace(row, **facts, address_version=version)
    return row
