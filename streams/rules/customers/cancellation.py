"""Sets the win-back and erasure timers after a cancellation, and cancels them when the customer returns (B4, B6).

The timers belong to the ended subscription. A subscription that was created later and started cancels them. One that
ran at the same time does not, because it may end too: the timer's rule checks whether any subscription still runs.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from schemas.effects import CancelTimers, Effect, OrderExport, StartTimer
from schemas.event import Event
from schemas.known import Known
from schemas.references import References
from schemas.state import Subscription, derived_id
from schemas.statuses import TimerStatus
from schemas.stripe.customer import StripeCustomer
from schemas.stripe.subscription import StripeSubscription
from schemas.timer import TimerDue
from streams.rules import timers
from streams.rules.precedence import SUBSCRIPTION_CREATED, rank_of, seconds_of
from streams.rules.subscription_row import NEVER_BEGUN

WIN_BACK = "win-back"
ERASE = "erase"
KINDS = (WIN_BACK, ERASE)
TIMERS_OF = frozenset((kind, "") for kind in KINDS)
"""Those of all of a customer's subscriptions, for References: which of them began later decides."""

DISPUTED = "payment_disputed"
NOT_BY_CHOICE = frozenset({"payment_failed", DISPUTED})
"""Stripe's `cancellation_details.reason` of customers who did not ask for the end. They get no churn survey."""


def timer_keys(account: str, subject: str) -> set[str]:
    """The keys of both timers of a subscription; for a deleted customer, `subject` is the customer id."""
    return {f"{kind}:{account}:{subject}" for kind in KINDS}


def after_cancellation(
    known: Known,
    event: Event[StripeSubscription],
    ended_at: datetime,
    customer_id: str,
    others: list[Subscription],
) -> list[Effect]:
    """Starts both timers, unless a later subscription is already known.

    An end that was found late starts no win-back timer that would be due already.
    """
    if any((began := _began(row)) is not None and began >= int(ended_at.timestamp()) for row in others):
        return []
    rules = known.config.rules
    waiting: list[Effect] = []
    if ended_at + timedelta(days=rules.win_back_after_days) > event.at:
        waiting.append(_timer(event, ended_at, customer_id, event.object.id, WIN_BACK, rules.win_back_after_days))
    return [*waiting, _timer(event, ended_at, customer_id, event.object.id, ERASE, rules.erase_after_days)]


def after_deletion(known: Known, event: Event[StripeCustomer], customer_id: str) -> StartTimer:
    """Starts the erasure timer of a customer who was deleted at Stripe."""
    return _timer(event, event.at, customer_id, customer_id, ERASE, known.config.rules.erase_after_days)


def order_export(
    known: Known, event: Event[StripeSubscription] | Event[StripeCustomer], customer_id: str
) -> OrderExport:
    """Orders an export of the customer's data. It is kept until the data itself is due for erasure."""
    return OrderExport(
        key=derived_id("exp", event.account, event.object.id),
        account=event.account,
        customer_id=customer_id,
        keep_until=event.at + timedelta(days=known.config.rules.erase_after_days),
    )


def after_return(known: Known, event: Event[StripeSubscription], row: Subscription) -> list[Effect]:
    """Cancels the timers of the subscriptions that had ended when this one began."""
    began = _began(row)
    if began is None and event.object.created is not None and row.status not in NEVER_BEGUN:
        began = int(event.object.created.timestamp())
    if began is None:
        return []
    ended = {
        timer.subject
        for kind in KINDS
        for timer in known.timers_of(row.account, row.customer_id, kind)
        if timer.status is TimerStatus.PENDING
        and timer.subject not in (row.subscription_id, row.customer_id)  # a customer deleted at Stripe cannot return
        and int(timer.data["left_at"]) <= began
    }
    return [
        CancelTimers(account=row.account, customer_id=row.customer_id, kinds=KINDS, subject=subject)
        for subject in sorted(ended)
    ]


def refer_leaving(event: Event[TimerDue]) -> References:
    """Names what `leaves_later` reads: the timer, its customer, and the customer's open timers of its kind."""
    references = timers.refer(event)
    references.timers_of.add((event.object.kind, ""))
    return references


def leaves_later(known: Known, event: Event[TimerDue], customer_id: str) -> bool:
    """Whether the customer has an open timer of this kind that is due later: that one decides then."""
    due = event.object
    return any(
        (timer.due_at.replace(microsecond=0), timer.timer_key) > (due.due_at, due.timer_key)
        for timer in known.timers_of(event.account, customer_id, due.kind)
    )


def _began(row: Subscription) -> int | None:
    """When a subscription that has started was created, in epoch seconds; None before its `created` event."""
    if row.status in NEVER_BEGUN or rank_of(row.first_version) != SUBSCRIPTION_CREATED:
        return None
    return seconds_of(row.first_version)


def _timer(
    event: Event[StripeSubscription] | Event[StripeCustomer],
    left_at: datetime,
    customer_id: str,
    subject: str,
    kind: str,
    days: int,
) -> StartTimer:
    return StartTimer(
        key=f"{kind}:{event.account}:{subject}",
        account=event.account,
        customer_id=customer_id,
        kind=kind,
        subject=subject,
        due_at=left_at + timedelta(days=days),
        data={"left_at": int(left_at.timestamp())},
    )
