"""Sets the timer of the reminder before a trial's end, some days before Stripe's own event (behaviours.md B1).

Each trial end has its own timer, which is never cancelled. When it fires, its rule checks whether the subscription is
still in that trial. So the timers do not depend on the order of the events.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from schemas.effects import StartTimer
from schemas.event import Event
from schemas.known import Known
from schemas.state import Subscription
from schemas.statuses import SubscriptionStatus
from schemas.stripe.subscription import StripeSubscription
from streams.rules.mails import iso, plan_name_of, price_of

TRIAL_REMINDER = "trial-reminder"


def timer_key(account: str, subscription_id: str, trial_end: datetime) -> str:
    """Returns a key per trial end, so that a moved or a new trial gets another reminder."""
    return f"{TRIAL_REMINDER}:{account}:{subscription_id}:{int(trial_end.timestamp())}"


def reminders(known: Known, event: Event[StripeSubscription], customer_id: str) -> list[StartTimer]:
    """Returns the timer of the event's trial, unless it is already set. A timer that is already due fires at once."""
    subscription = event.object
    if not is_in_trial(event) or subscription.trial_end is None:
        return []
    key = timer_key(event.account, subscription.id, subscription.trial_end)
    if known.timer(key) is not None:
        return []
    timer = StartTimer(
        key=key,
        account=event.account,
        customer_id=customer_id,
        kind=TRIAL_REMINDER,
        subject=subscription.id,
        due_at=subscription.trial_end - timedelta(days=known.config.rules.trial_reminder_days),
        data={"trial_end": subscription.trial_end.isoformat()},
    )
    return [timer]


def is_in_trial(event: Event[StripeSubscription]) -> bool:
    """Whether a trial is running at the event's time."""
    subscription = event.object
    is_trialing = subscription.status is SubscriptionStatus.TRIALING and not event.terminal
    return is_trialing and subscription.trial_end is not None and subscription.trial_end > event.at


def data(known: Known, row: Subscription, trial_end: datetime, days_left: int) -> dict[str, Any]:
    """The data of both mails about a trial's end: what it costs from then on."""
    return {
        "plan": plan_name_of(known.config, row),
        "trial_end": iso(trial_end),
        "days_left": days_left,
        "price": price_of(row),
        "interval": row.interval,
        "interval_count": row.interval_count or 1,
        "quantity": row.quantity,
    }
