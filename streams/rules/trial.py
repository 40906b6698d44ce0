"""Inside the rules: the reminder of a trial's end, some days before Stripe's own (behaviours.md B1)."""

from __future__ import annotations

from datetime import datetime, timedelta

from schemas.effects import CancelTimers, Effect, StartTimer
from schemas.event import Event
from schemas.known import Known
from schemas.state import SubscriptionStatus, TimerStatus
from schemas.stripe.subscription import StripeSubscription

TRIAL_REMINDER = "trial-reminder"


def timer_key(account: str, subscription_id: str, trial_end: datetime) -> str:
    """One per trial end: a trial that is given anew is reminded of anew."""
    return f"{TRIAL_REMINDER}:{account}:{subscription_id}:{int(trial_end.timestamp())}"


def remind(known: Known, event: Event[StripeSubscription], customer_id: str) -> list[Effect]:
    """The timer as the newest event has it: set, moved with the trial's end, or cancelled with the trial.

    One that is due already is set all the same, and so fires at once.
    """
    subscription = event.object
    pending = {
        timer.timer_key
        for timer in known.timers_of(event.account, customer_id)
        if timer.kind == TRIAL_REMINDER and timer.subject == subscription.id and timer.status is TimerStatus.PENDING
    }
    key, start = None, None
    if is_in_trial(event) and subscription.trial_end is not None:
        key = timer_key(event.account, subscription.id, subscription.trial_end)
        start = StartTimer(
            key=key,
            account=event.account,
            customer_id=customer_id,
            kind=TRIAL_REMINDER,
            subject=subscription.id,
            due_at=subscription.trial_end - timedelta(days=known.config.rules.trial_reminder_days),
            data={"trial_end": subscription.trial_end.isoformat()},
        )
    effects: list[Effect] = []
    if pending - {key}:
        effects.append(
            CancelTimers(
                account=event.account, customer_id=customer_id, kinds=(TRIAL_REMINDER,), subject=subscription.id
            )
        )
    if start is not None and known.timer(start.key) is None:
        effects.append(start)
    return effects


def is_in_trial(event: Event[StripeSubscription]) -> bool:
    """Whether, at the event's time, a trial is running."""
    subscription = event.object
    is_trialing = subscription.status is SubscriptionStatus.TRIALING and not event.terminal
    return is_trialing and subscription.trial_end is not None and subscription.trial_end > event.at
