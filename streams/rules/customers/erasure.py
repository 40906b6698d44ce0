"""Decides, when an erasure timer is due, whether the customer is erased, and orders the erasure (B6).

Each ended subscription has its own timer, and so has a deleted customer. The last timer decides, because a customer who
kept one subscription longer left later.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.effects import Effect, Erase, FinishTimer, Save, StartTimer
from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.state import Customer, SubscriptionStatus
from schemas.timer import TimerDue
from schemas.version import UNSEEN
from streams.rules.customers.account import customer_or_blank, subscriptions_with
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
        return [_look_again(event, customer_id)]
    if living or leaves_later(known, event, customer_id):
        return [FinishTimer(due.timer_key)]
    effects: list[Effect] = [FinishTimer(due.timer_key)]
    anonymous = without_person(customer, event.at)
    if anonymous != customer:
        effects.append(Save(anonymous))
    if subscriptions:
        stored = known.organization(event.account, customer_id)
        organization = derive_organization(known.config, anonymous, subscriptions)
        if organization != stored:
            effects.append(Save(organization))
    asked_at = datetime.fromtimestamp(int(due.data["left_at"]), UTC)
    return [*effects, Erase(account=event.account, customer_id=customer_id, asked_at=asked_at)]


def without_person(customer: Customer, at: datetime) -> Customer:
    """The customer's row without personal data. The profile of any event after `at` is stored again."""
    return replace(customer, email=None, name=None, locale=None, profile_version=UNSEEN, erased_at=at)


def _look_again(event: Event[TimerDue], customer_id: str) -> StartTimer:
    due = event.object
    return StartTimer(
        key=due.timer_key,
        account=event.account,
        customer_id=customer_id,
        kind=due.kind,
        subject=due.subject,
        due_at=due.due_at + _LOOK_AGAIN,
        data=due.data,
    )
