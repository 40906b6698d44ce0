"""Decides, when an erasure timer is due or an operator asks, whether the customer is erased, and orders it (B6).

Each ended subscription has its own timer, and so has a deleted customer. The last timer decides, because a customer who
kept one subscription longer left later.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.effects import Effect, Erase, FinishTimer, NoteStale, Save, StartTimer
from schemas.erasure import ErasureRequested
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.state import Customer, User
from schemas.statuses import SubscriptionStatus
from schemas.timer import TimerDue
from schemas.version import UNSEEN
from streams.rules.customers.account import (
    customer_or_blank,
    is_in_use_by_another,
    subscriptions_of_user,
    subscriptions_with,
    user_with_address,
)
from streams.rules.customers.cancellation import leaves_later
from streams.rules.customers.organization import derive_organization
from streams.rules.subscription_row import ENDED

_LOOK_AGAIN = timedelta(days=1)
"""Stripe ends a subscription without a first payment within a day (23 hours)."""


def erase(known: Known, event: Event[TimerDue], customer_id: str) -> list[Effect]:
    """Returns the effects of a due erasure timer on the present state."""
    due = event.object
    customer = customer_or_blank(known, event.account, customer_id)
    subscriptions = subscriptions_with(known, customer)
    # A customer who is deleted at Stripe has no running subscription, even if its last event is still missing.
    living = {row.status for row in subscriptions if row.status not in ENDED and customer.deleted_at is None}
    if living == {SubscriptionStatus.INCOMPLETE}:
        return [_look_again(event, customer_id, due.due_at + _LOOK_AGAIN)]
    if living or leaves_later(known, event, customer_id):
        return [FinishTimer(due.timer_key)]
    if (again := _used_until(known, event, customer)) is not None:
        return [_look_again(event, customer_id, again)]
    asked_at = datetime.fromtimestamp(int(due.data["left_at"]), UTC)
    order = Erase(account=event.account, customer_id=customer_id, asked_at=asked_at)
    return [FinishTimer(due.timer_key), *_anonymous(known, customer, event.at), order]


def erase_on_request(known: Known, event: Event[ErasureRequested]) -> list[Effect]:
    """Returns the effects of an operator's request. A running subscription stops it, unless the operator confirmed."""
    asked = event.object
    customer = customer_or_blank(known, event.account, asked.customer)
    running = [row.subscription_id for row in subscriptions_with(known, customer) if row.status not in ENDED]
    if running and customer.deleted_at is None and not asked.even_if_running:
        return [NoteStale(f"not erased: {', '.join(running)} is running")]
    order = Erase(
        account=event.account, customer_id=asked.customer, asked_at=event.at, by=asked.by, reason=asked.reason
    )
    return [*_anonymous(known, customer, event.at), order]


def _anonymous(known: Known, customer: Customer, at: datetime) -> list[Effect]:
    """Returns the effects that save the customer, the organization and the users without personal data."""
    effects: list[Effect] = []
    subscriptions = subscriptions_with(known, customer)
    anonymous = without_person(customer, at)
    if anonymous != customer:
        effects.append(Save(anonymous))
    if subscriptions:
        stored = known.organization(customer.account, customer.customer_id)
        organization = derive_organization(known.config, anonymous, subscriptions)
        if organization != stored:
            effects.append(Save(organization))
    effects += [
        Save(user)
        for user_id in sorted({User.id_of(customer.account, customer.customer_id), customer.user_id or ""} - {""})
        if (stored_user := known.user(customer.account, user_id)) is not None
        and (user := user_with_address(known, user_id, anonymous)) != stored_user
    ]
    return effects


def without_person(customer: Customer, at: datetime) -> Customer:
    """The customer's row without personal data. None is stored again until the customer returns."""
    return replace(
        customer,
        email=None,
        name=None,
        locale=None,
        address={},
        newest={},
        profile_version=UNSEEN,
        name_version=UNSEEN,
        address_version=UNSEEN,
        erased_at=at,
    )


def _used_until(known: Known, event: Event[TimerDue], customer: Customer) -> datetime | None:
    """When to look again, if the same user has another Stripe customer: a person who stays is not erased (B4).

    None if that one has no running subscription and has left long enough ago.
    """
    if customer.deleted_at is not None:
        return None
    keep = timedelta(days=known.config.rules.erase_after_days)
    if is_in_use_by_another(known, customer):
        return event.object.due_at + max(keep, _LOOK_AGAIN)
    ends = [row.ended_at for row in subscriptions_of_user(known, customer) if row.ended_at is not None]
    until = max(ends, default=event.object.due_at - keep) + keep
    return until if until > event.object.due_at else None


def _look_again(event: Event[TimerDue], customer_id: str, at: datetime) -> StartTimer:
    due = event.object
    return StartTimer(
        key=due.timer_key,
        account=event.account,
        customer_id=customer_id,
        kind=due.kind,
        subject=due.subject,
        due_at=at,
        data=due.data,
    )
