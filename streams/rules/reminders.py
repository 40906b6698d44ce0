"""The rules of four timers: a trial's end (B1), an invoice still unpaid (C3), a customer who left (B4), access (B8).

Each rule checks the present state and sends nothing if the reason for the mail no longer exists. The rules belong to
the streams that set the timers.
"""

from __future__ import annotations

from schemas.effects import Effect, FinishTimer
from schemas.event import Event
from schemas.known import Known
from schemas.recovery_facts import has_recovered_from
from schemas.references import References
from schemas.state import Subscription
from schemas.statuses import PaymentStatus, SubscriptionStatus
from schemas.timer import TimerDue, timer_event_type
from streams.rules import timers
from streams.rules.customers import events as customer_events
from streams.rules.customers.account import customer_or_blank, is_in_use_by_another
from streams.rules.customers.cancellation import DISPUTED, WIN_BACK, leaves_later, refer_leaving
from streams.rules.invoices import dunning
from streams.rules.invoices import events as invoice_events
from streams.rules.mails import days_until, iso, mail, money, plan_name_of
from streams.rules.precedence import time_of
from streams.rules.subscription_row import ENDED, NEVER_BEGUN
from streams.rules.subscriptions import events as subscription_events
from streams.rules.subscriptions import trial
from streams.rules.subscriptions.trial import TRIAL_REMINDER

ACCESS_ENDS = "access-ends"
"""The end of the grace time of a failed payment. Set only if the config has a `feed` (streams/feed.py)."""


def _refer_invoice(event: Event[TimerDue]) -> References:
    references = timers.refer(event)
    references.payments.add((event.account, event.object.subject))
    return references


@subscription_events.stream.on(timer_event_type(TRIAL_REMINDER), model=TimerDue, refer=timers.refer)
def on_trial_reminder(event: Event[TimerDue], known: Known) -> list[Effect]:
    """B1. Reminds only of the trial that the timer was set for, while it is running."""
    if not timers.is_due(event, known):
        return []
    due = event.object
    done = FinishTimer(due.timer_key)
    row = known.subscription(event.account, due.subject)
    if row is None or row.status is not SubscriptionStatus.TRIALING or iso(row.trial_end) != due.data["trial_end"]:
        return [done]
    # The timer of a trial whose first event is from its last days is due at once, with fewer days left.
    now = max(event.at, time_of(row.version))
    if row.trial_end is None or row.trial_end <= now:
        return [done]
    data = trial.data(known, row, row.trial_end, days_until(row.trial_end, now))
    customer = customer_or_blank(known, event.account, row.customer_id)
    key = f"{TRIAL_REMINDER}:{row.subscription_id}:{int(row.trial_end.timestamp())}"
    return [done, mail("trial-reminder", key, customer, data)]


@invoice_events.stream.on(timer_event_type(dunning.DUNNING_REMINDER), model=TimerDue, refer=_refer_invoice)
def on_dunning_reminder(event: Event[TimerDue], known: Known) -> list[Effect]:
    """C3. Sends a step by days if the invoice is still unpaid and open, and its subscription has not ended."""
    if not timers.is_due(event, known):
        return []
    due = event.object
    done = FinishTimer(due.timer_key)
    payment = known.payment(event.account, due.subject)
    if payment is None or payment.status is not PaymentStatus.FAILED or payment.closed_at is not None:
        return [done]
    row = known.subscription(event.account, payment.subscription_id) if payment.subscription_id else None
    if row is not None and (row.status in ENDED or has_recovered_from(row, due.subject)):
        return [done]
    customer = customer_or_blank(known, event.account, due.customer or "")
    if customer.deleted_at is not None:
        return [done]
    data = dict(due.data["mail"])
    if payment.amount_remaining == 0:
        return [done]
    if payment.amount_remaining is not None:  # less than at the failure after a credit note or a partial payment
        data["amount"] = money(payment.amount_remaining, payment.currency)
    return [done, dunning.step_mail(due.data["template"], due.subject, customer, data, due.data["to"])]


@customer_events.stream.on(timer_event_type(ACCESS_ENDS), model=TimerDue, refer=timers.refer)
def on_access_ends(event: Event[TimerDue], known: Known) -> list[Effect]:
    """B8. The stored row says what applies from now on, so it does not change; the feed reports it (F3)."""
    return [FinishTimer(event.object.timer_key)] if timers.is_due(event, known) else []


@subscription_events.stream.on(timer_event_type(WIN_BACK), model=TimerDue, refer=refer_leaving)
def on_win_back(event: Event[TimerDue], known: Known) -> list[Effect]:
    """B4. Sends the mail unless the customer returned, was deleted, disputed, or kept another subscription longer.

    In the last case the timer of that other subscription sends it, `win_back_after_days` after its end.
    """
    if not timers.is_due(event, known):
        return []
    due = event.object
    done = FinishTimer(due.timer_key)
    if due.customer is None:
        return [done]
    customer = customer_or_blank(known, event.account, due.customer)
    subscriptions_now = known.subscriptions_of(event.account, due.customer)
    if customer.deleted_at is not None or any(map(_is_living, subscriptions_now)):
        return [done]
    if is_in_use_by_another(known, customer):
        return [done]
    if leaves_later(known, event, due.customer):
        return [done]
    left = known.subscription(event.account, due.subject)
    if left is not None and left.cancellation_reason == DISPUTED:
        return [done]
    data = {"plan": plan_name_of(known.config, left), "return_url": known.config.mail.return_url}
    return [done, mail("win-back", f"{WIN_BACK}:{due.subject}", customer, data)]


def _is_living(row: Subscription) -> bool:
    return row.status not in ENDED | NEVER_BEGUN
