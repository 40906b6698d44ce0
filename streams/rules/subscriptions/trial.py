"""Inside the rules: the reminder of a trial's end, some days before Stripe's own (behaviours.md B1).

Each trial end that is seen has its timer, and nothing cancels it: when it fires, its rule looks whether the
subscription is still in that trial. So the timers do not depend on the order of the events.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from schemas.effects import StartTimer
from schemas.event import Event
from schemas.known import Known
from schemas.state import SubscriptionStatus
from schemas.stripe.subscription import StripeSubscription

TRIAL_REMINDER = "trial-reminder"


def timer_key(account: str, subscription_id: str, trial_end: datetime) -> str:
    """One per trial end: a trial that is moved, or given anew, is reminded of anew."""
    return f"{TRIAL_REMINDER}:{account}:{subscription_id}:{int(trial_end.timestamp())}"


def reminders(known: Known, event: Event[StripeSubscription], customer_id: str) -> list[StartTimer]:
    """The timer of the trial that the event shows; one that is due already is set all the same, and fires at once."""
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
    """Whether, at the event's time, a trial is running."""
    subscription = event.object
    is_trialing = subscription.status is SubscriptionStatus.TRIALING and not event.terminal
    return is_trialing and subscription.trial_end is not None and subscription.trial_end > event.at
