"""The checks of truth, one per template whose mail claims something that can change while it is queued.

A check reads the present rows (present.py) and answers with a reason to withhold the mail, a reason to wait, or the
data that is true now. The subject of a mail is in its key, `kind:account:subject[:…]` (streams/rules/mails.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.mail import OPERATOR_MAILS
from schemas.payment_facts import PAID
from schemas.recovery_facts import has_recovered_from
from schemas.state import Payment, PaymentMethod, Subscription
from schemas.statuses import SubscriptionStatus
from schemas.stripe.dispute import UNDER_REVIEW
from schemas.version import seconds_of
from sinks.email.message import QueuedMail
from sinks.email.present import ENDED, Present, Question
from sinks.outbox.truth import Answer
from sinks.outbox.verdicts import NotYet, Withheld

VALID_FOR = timedelta(days=14)
"""A mail about a state is withheld this long after it was queued, whatever the rows say."""

REASON_BELONGS_WITHIN_S = 60
"""Seconds between an attempt's event and the event that names its decline reason. Attempts are hours apart."""
REASON_WAIT, REASON_PAUSE = timedelta(seconds=5), timedelta(seconds=2)
"""How long a first notice waits for the decline reason: Stripe sends both events together, in any order."""

WELCOME_WAIT, WELCOME_PAUSE = timedelta(minutes=2), timedelta(seconds=5)
"""How long a welcome mail waits for the subscription's own event, if the checkout's event came first."""

ARCHIVE_WAIT, ARCHIVE_PAUSE = timedelta(minutes=1), timedelta(seconds=2)
"""How long a cancellation mail waits for the archive that it links."""

LAST_CARD_STEP = 7
"""Days before a card's expiry of the last notice. Until then the earlier one is sent (streams/rules/payments)."""

WITH_ACCESS = frozenset({SubscriptionStatus.ACTIVE, SubscriptionStatus.TRIALING, SubscriptionStatus.PAST_DUE})
"""Statuses in which a failed payment has not yet cost the access."""

MailCheck = Callable[[QueuedMail, Present], Coroutine[Question[Any], Any, Answer]]
"""Decides about one mail. It waits for nothing but answers of `Present`."""

ENDED_REASON = "the subscription has ended"
ACCOUNT_LEFT = "the connected account has left the application"


async def fact(_mail: QueuedMail, present: Present) -> Answer:
    """The check of a mail to a customer about what has happened (FACT_MAILS): it stays true, and it is ours to send."""
    if await present.has_account_left():
        return Withheld(ACCOUNT_LEFT)
    return None


def check(decide: MailCheck, *, customer: bool = True) -> MailCheck:
    """Make a check from its decision. With `customer`, mails to a customer deleted at Stripe are withheld first."""

    async def checked(mail: QueuedMail, present: Present) -> Answer:
        if mail.age > VALID_FOR:
            return Withheld(f"it was queued more than {VALID_FOR.days} days ago")
        if mail.template not in OPERATOR_MAILS and await present.has_account_left():
            return Withheld(ACCOUNT_LEFT)
        if customer:
            row = await present.customer()
            if row is not None and row.deleted_at is not None:
                return Withheld("the customer has been deleted")
        return await decide(mail, present)

    return checked


async def _dunning(mail: QueuedMail, present: Present) -> Answer:
    payment = await present.payment(subject_of(mail))
    if payment is None:
        return Withheld("the invoice is not stored")
    if (why := await _no_longer_owed(payment, present)) is not None:
        return Withheld(why)
    reason = _reason(mail, payment)
    if reason is None and mail.age < REASON_WAIT:
        return NotYet(REASON_PAUSE, "waits for the decline reason")
    data = dict(mail.data) | _remaining(payment) | {"reason": reason}
    data["attempt"] = max(int(mail.data.get("attempt", 1)), payment.attempt_count)
    subscription = await present.subscription(payment.subscription_id)
    data["keeps_access"] = subscription is None or subscription.status in WITH_ACCESS
    if (at := moment(mail.data.get("next_attempt_at"))) is not None and at <= mail.now:
        data["next_attempt_at"] = None
    return data


async def _action_required(mail: QueuedMail, present: Present) -> Answer:
    payment = await present.payment(subject_of(mail))
    if payment is None:  # Stripe may ask for the confirmation before any other event of the invoice
        subscription = await present.subscription(mail.data.get("subscription_id"))
        return Withheld(ENDED_REASON) if subscription is not None and subscription.status in ENDED else None
    if (why := await _no_longer_owed(payment, present)) is not None:
        return Withheld(why)
    return dict(mail.data) | _remaining(payment)


async def _renewal(mail: QueuedMail, present: Present) -> Answer:
    renews_at = moment(mail.data.get("renews_at"))
    if renews_at is not None and renews_at <= mail.now:
        return Withheld("the renewal date has passed")
    subscription = await present.subscription(mail.data.get("subscription_id"))
    if subscription is None:
        return None
    if subscription.status in ENDED:
        return Withheld(ENDED_REASON)
    if subscription.pause_collection is not None or subscription.status is SubscriptionStatus.PAUSED:
        return Withheld("the collection of payments is paused")
    if _ends_by(subscription, renews_at):
        return Withheld("the subscription will not renew")
    return None


async def _trial(mail: QueuedMail, present: Present) -> Answer:
    subscription = await present.subscription(subject_of(mail))
    if subscription is None or subscription.status is not SubscriptionStatus.TRIALING:
        return Withheld("the trial is over")
    trial_end = moment(mail.data.get("trial_end"))
    if subscription.trial_end is None or trial_end is None or _seconds(subscription.trial_end) != _seconds(trial_end):
        return Withheld("the trial's end has been moved")
    if subscription.trial_end <= mail.now:
        return Withheld("the trial is over")
    days_left = _days(subscription.trial_end, mail.now)
    return dict(mail.data) | {"days_left": days_left, "will_end": _ends_by(subscription, subscription.trial_end)}


async def _card(mail: QueuedMail, present: Present) -> Answer:
    parts = mail.key.split(":")
    row = await present.payment_method(subject_of(mail))
    if row is None or row.detached_at is not None:
        return Withheld("the card has been removed")
    if (row.exp_year, row.exp_month) != (mail.data.get("exp_year"), mail.data.get("exp_month")):
        return Withheld("the card has been renewed")
    expiry = _expiry(row)
    if expiry is None or expiry <= mail.now:
        return Withheld("the card has expired")
    customer = await present.customer()
    default = customer.default_payment_method if customer is not None else None
    if default is not None and default != row.payment_method_id:
        return Withheld("the card has been replaced")
    if default is None and any(
        other.key != row.key and other.detached_at is None for other in await present.payment_methods()
    ):
        return Withheld("the card has been replaced")
    days_left = _days(expiry, mail.now)
    if parts[-1] != str(LAST_CARD_STEP) and days_left <= LAST_CARD_STEP:
        return Withheld(f"the notice {LAST_CARD_STEP} days before the expiry is due as well")
    return dict(mail.data) | {"days_left": days_left}


async def _method_detached(mail: QueuedMail, present: Present) -> Answer:  # noqa: ARG001  # all decisions have one signature
    customer = await present.customer()
    if customer is not None and customer.default_payment_method is not None:
        return Withheld("another payment method has been added")
    return None


async def _no_more(mail: QueuedMail, present: Present) -> Answer:  # noqa: ARG001  # as above
    """The mail depends on the customer and its age only, which `check` has read."""
    return None


async def _not_erased(mail: QueuedMail, present: Present) -> Answer:  # noqa: ARG001  # as above
    customer = await present.customer()
    if customer is not None and customer.is_erased:
        return Withheld("the customer has been erased")
    return None


async def _left(mail: QueuedMail, present: Present) -> Answer:  # noqa: ARG001  # as above
    if await present.has_living_subscription():
        return Withheld("the customer has come back")
    return None


async def _canceled(mail: QueuedMail, present: Present) -> Answer:
    """The archive's link and the erasure date are promises: both are read again."""
    data = dict(mail.data)
    if data.get("reason") == "customer_deleted" and await present.has_mail_of_cancellation():
        return Withheld("the mail about the subscription's end has the export's link")
    if data.get("erase_at") is not None:
        erased_at = await present.erased_at()
        data["erase_at"] = erased_at.isoformat() if erased_at is not None else None
    if (export_id := data.get("export_id")) is None:
        return data
    status = await present.export_status(export_id)
    if status in ("queued", "working") and mail.age < ARCHIVE_WAIT:
        return NotYet(ARCHIVE_PAUSE, "waits for the archive")
    data["is_export_ready"] = status == "done"
    if status not in ("queued", "working", "done", "failed"):  # expired, deleted: the link cannot work any more
        data["export_id"] = None
    return data


async def _dispute(mail: QueuedMail, present: Present) -> Answer:
    row = await present.dispute(subject_of(mail))
    if row is None:
        return Withheld("the dispute is not stored")
    if row.closed_at is not None:
        return Withheld("the dispute is closed")
    if row.status in UNDER_REVIEW:
        return Withheld("evidence has been submitted")
    due_at = moment(mail.data.get("due_at"))
    if row.due_by is None or due_at is None or _seconds(row.due_by) != _seconds(due_at):
        return Withheld("the dispute has another deadline")
    if row.due_by <= mail.now:
        return Withheld("the deadline has passed")
    return dict(mail.data) | {"amount": {"amount": row.amount, "currency": row.currency}}


async def _welcome(mail: QueuedMail, present: Present) -> Answer:
    """The checkout's event has no interval, price and trial. The subscription's own event brings them."""
    row = await present.subscription(subject_of(mail))
    is_complete = row is not None and row.stripe_status is not None
    if row is None or not is_complete:
        return NotYet(WELCOME_PAUSE, "waits for the subscription's event") if mail.age < WELCOME_WAIT else None
    data = dict(mail.data)
    if data.get("interval") is None and row.interval is not None:
        data |= {"interval": row.interval, "interval_count": row.interval_count or 1}
    if data.get("price") is None and row.unit_amount is not None and row.currency is not None:
        data["price"] = {"amount": row.unit_amount, "currency": row.currency}
    is_in_trial = row.trial_end is not None and row.trial_end > mail.now
    data["trial_end"] = row.trial_end.isoformat() if row.trial_end is not None and is_in_trial else None
    return data


CHECKS: Mapping[str, MailCheck] = {
    "subscription-welcome": check(_welcome, customer=False),
    "subscription-canceled": check(_canceled, customer=False),
    "payment-failed": check(_dunning),
    "payment-reminder": check(_dunning),
    "payment-urgent": check(_dunning),
    "payment-final": check(_dunning),
    "payment-action-required": check(_action_required),
    "invoice-overdue": check(_action_required),
    "renewal-reminder": check(_renewal),
    "trial-ending": check(_trial),
    "trial-reminder": check(_trial),
    "card-expiring": check(_card),
    "payment-method-detached": check(_method_detached),
    "churn-survey": check(_no_more),
    "win-back": check(_left),
    "dispute-due": check(_dispute, customer=False),
}
"""Checks by template."""

OF_PLUGIN = check(_not_erased)
"""The check of a plugin's mail to a customer. What else it claims, only the plugin knows."""


def subject_of(mail: QueuedMail) -> str:
    """The Stripe id that the mail is about; '' if its key names none."""
    parts = mail.key.split(":")
    return parts[2] if len(parts) > 2 else ""  # kind:account:subject


def moment(text: str | None) -> datetime | None:
    """Read a time (ISO 8601) of a mail's data."""
    return datetime.fromisoformat(text) if text is not None else None


async def _no_longer_owed(payment: Payment, present: Present) -> str | None:
    """Return why nothing is asked for any more, or None."""
    if payment.status in PAID:
        return "the invoice has been paid"
    if payment.closed_at is not None:
        return "the invoice has been closed"
    if payment.amount_remaining == 0:
        return "nothing remains to be paid of the invoice"
    subscription = await present.subscription(payment.subscription_id)
    if subscription is None:
        return None
    if payment.invoice_id is not None and has_recovered_from(subscription, payment.invoice_id):
        return "the subscription is active again"
    return ENDED_REASON if subscription.status in ENDED else None


def _remaining(payment: Payment) -> dict[str, Any]:
    if payment.amount_remaining is None:
        return {}
    return {"amount": {"amount": payment.amount_remaining, "currency": payment.currency}}


def _reason(mail: QueuedMail, payment: Payment) -> str | None:
    """The decline reason of the newest attempt, from the payment's row or from the mail's own event."""
    failed_at, named_at = seconds_of(payment.version), seconds_of(payment.failure_version)
    is_of_newest = failed_at is None or named_at is None or named_at >= failed_at - REASON_BELONGS_WITHIN_S
    if payment.failure_reason is not None and is_of_newest:
        return payment.failure_reason
    own: str | None = mail.data.get("reason")
    return own if int(mail.data.get("attempt", 1)) >= payment.attempt_count else None


def _ends_by(subscription: Subscription, at: datetime | None) -> bool:
    """Whether the subscription is set to end by this time, or at the end of its period."""
    if subscription.cancel_at_period_end:
        return True
    return subscription.cancel_at is not None and (at is None or subscription.cancel_at <= at)


def _expiry(row: PaymentMethod) -> datetime | None:
    """The first moment (UTC) at which the card is no longer valid."""
    if row.exp_year is None or row.exp_month is None:
        return None
    is_december = row.exp_month == 12  # the last month
    return datetime(row.exp_year + is_december, 1 if is_december else row.exp_month + 1, 1, tzinfo=UTC)


def _days(at: datetime, now: datetime) -> int:
    """The days from `now` to `at`, rounded up."""
    return math.ceil((at - now) / timedelta(days=1))


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
