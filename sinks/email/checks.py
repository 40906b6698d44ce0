"""The checks of truth, one per template whose mail claims something that can change while it is queued.

A check reads the present rows (present.py) and answers with a reason to withhold the mail, a reason to wait, or the
data that is true now. The subject of a mail is in its key, `kind:account:subject[:…]` (streams/rules/mails.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from schemas.mail import OPERATOR_MAILS
from schemas.payment_facts import PAID
from schemas.recovery_facts import has_recovered_from
from schemas.state import Payment, Subscription
from schemas.statuses import SubscriptionStatus
from schemas.stripe.dispute import UNDER_REVIEW
from schemas.version import seconds_of
from sinks.email.charging import (
    after_trial,
    charges_again,
    ends_by,
    expiry_of,
    is_charged_to,
    items_have_changed,
    lacks_method,
)
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

FIRST_NOTICE = "payment-failed"

LAST_CARD_STEP = 7
"""Days before a card's expiry of the last notice. Until then the earlier one is sent (streams/rules/payments)."""

SUPERSEDED_AFTER = timedelta(days=1)
"""A notice that is this late is withheld if a later step of its invoice has been reached: that one says more."""

ENDED_REASON = "the subscription has ended"
ACCOUNT_LEFT = "the connected account has left the application"


MailCheck = Callable[[QueuedMail, Present], Coroutine[Question[Any], Any, Answer]]
"""Decides about one mail. It waits for nothing but answers of `Present`."""


@dataclass(frozen=True, slots=True)
class TemplateCheck:
    """The check of one template. `stays_true`: what the mail says happened, so that it never becomes too old."""

    decide: MailCheck
    is_for_deleted: bool = False
    """Whether it also leaves to a customer who was deleted at Stripe."""
    stays_true: bool = False

    async def __call__(self, mail: QueuedMail, present: Present) -> Answer:
        if not self.stays_true and mail.age > VALID_FOR:
            return Withheld(f"it was queued more than {VALID_FOR.days} days ago")
        if mail.template not in OPERATOR_MAILS and await present.has_account_left():
            return Withheld(ACCOUNT_LEFT)
        if not self.is_for_deleted and (await present.addressee(mail.template)).is_deleted:
            return Withheld("the customer has been deleted")
        return await self.decide(mail, present)


async def _dunning(mail: QueuedMail, present: Present) -> Answer:
    payment = await present.payment(subject_of(mail))
    if payment is None:
        return Withheld("the invoice is not stored")
    if (why := await _no_longer_owed(payment, present)) is not None:
        return Withheld(why)
    if (why := _superseded(mail, payment)) is not None:
        return Withheld(why)
    reason = _reason(mail, payment)
    if reason is None and mail.age < REASON_WAIT:
        return NotYet(REASON_PAUSE, "waits for the decline reason")
    data = dict(mail.data) | _remaining(payment) | {"reason": reason}
    data["attempt"] = max(int(mail.data.get("attempt", 1)), payment.attempt_count)
    data["keeps_access"] = payment.subscription_id is not None and await present.has_access(mail.now)
    data["is_given_up"] = _is_given_up(mail, payment)
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
    if subscription.status is SubscriptionStatus.UNPAID:
        return Withheld("Stripe does not collect the invoices of an unpaid subscription")
    if ends_by(subscription, renews_at):
        return Withheld("the subscription will not renew")
    if _has_changed(subscription, mail):
        return Withheld("the price or the quantity has changed since, and so has the amount")
    lacks = lacks_method(subscription, await present.customer(), await present.payment_methods())
    return dict(mail.data) | {
        "is_after_trial": subscription.status is SubscriptionStatus.TRIALING,
        "has_method": not lacks,
    }


async def _trial(mail: QueuedMail, present: Present) -> Answer:
    subscription = await present.subscription(subject_of(mail))
    if subscription is None or subscription.status is not SubscriptionStatus.TRIALING:
        return Withheld("the trial is over")
    trial_end = moment(mail.data.get("trial_end"))
    if subscription.trial_end is None or trial_end is None or _seconds(subscription.trial_end) != _seconds(trial_end):
        return Withheld("the trial's end has been moved")
    if subscription.trial_end <= mail.now:
        return Withheld("the trial is over")
    after = after_trial(subscription, await present.customer(), await present.payment_methods())
    return dict(mail.data) | {
        "days_left": _days(subscription.trial_end, mail.now),
        "will_end": ends_by(subscription, subscription.trial_end),
        "after": after,
    }


async def _card(mail: QueuedMail, present: Present) -> Answer:
    parts = mail.key.split(":")
    row = await present.payment_method(subject_of(mail))
    if row is None or row.detached_at is not None:
        return Withheld("the card has been removed")
    if (row.exp_year, row.exp_month) != (mail.data.get("exp_year"), mail.data.get("exp_month")):
        return Withheld("the card has been renewed")
    expiry = expiry_of(row)
    if expiry is None or expiry <= mail.now:
        return Withheld("the card has expired")
    running = await present.subscriptions()
    charged = [one for one in running if charges_again(one, expiry)]
    if not charged:
        return Withheld("no subscription will be charged to the card")
    customer, methods = await present.customer(), await present.payment_methods()
    if not any(is_charged_to(row.payment_method_id, one, customer, methods) for one in charged):
        return Withheld("the card has been replaced")
    days_left = _days(expiry, mail.now)
    if parts[-1] != str(LAST_CARD_STEP) and days_left <= LAST_CARD_STEP:
        return Withheld(f"the notice {LAST_CARD_STEP} days before the expiry is due as well")
    return dict(mail.data) | {"days_left": days_left}


async def _method_detached(mail: QueuedMail, present: Present) -> Answer:
    """Without a method only if a running subscription needs one: it renews, is charged, and has none of its own."""
    customer = await present.customer()
    if customer is not None and customer.default_payment_method is not None:
        return Withheld("another payment method has been added")
    charged = [one for one in await present.subscriptions() if charges_again(one)]
    if not charged:
        return Withheld("no subscription will be charged")
    if all(one.default_payment_method not in (None, subject_of(mail)) for one in charged):
        return Withheld("each subscription has a payment method of its own")
    return None


async def _always(mail: QueuedMail, present: Present) -> Answer:  # noqa: ARG001  # all decisions have one signature
    return None


async def _changed(mail: QueuedMail, present: Present) -> Answer:
    """An earlier plan stays a fact, because the mail about the next change follows it. An end does not."""
    row = await present.subscription(subject_of(mail))
    return Withheld(ENDED_REASON) if row is not None and row.status in ENDED else None


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
        erased_at = None if await present.has_living_subscription() else await present.erased_at()
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
    if row.status in ENDED:
        return Withheld(ENDED_REASON)
    # A row that is incomplete is older than what queued this mail: a checkout that is complete, or a first payment.
    data = dict(mail.data)
    if data.get("interval") is None and row.interval is not None:
        data |= {"interval": row.interval, "interval_count": row.interval_count or 1}
    if data.get("price") is None and (price := row.price_of_unit) is not None:
        data["price"] = {"amount": price, "currency": row.currency}
    if data.get("quantity") is None:
        data["quantity"] = row.quantity
    is_in_trial = row.trial_end is not None and row.trial_end > mail.now
    data["trial_end"] = row.trial_end.isoformat() if row.trial_end is not None and is_in_trial else None
    return data


FACT = TemplateCheck(_always, is_for_deleted=True, stays_true=True)
"""The check of a mail to a customer about what has happened: it stays true, and it is ours to send."""

CHECKS: Mapping[str, MailCheck] = {
    "subscription-welcome": TemplateCheck(_welcome),
    "plan-changed": TemplateCheck(_changed),
    "subscription-canceled": TemplateCheck(_canceled, is_for_deleted=True),
    "payment-failed": TemplateCheck(_dunning),
    "payment-reminder": TemplateCheck(_dunning),
    "payment-urgent": TemplateCheck(_dunning),
    "payment-final": TemplateCheck(_dunning),
    "payment-action-required": TemplateCheck(_action_required),
    "invoice-overdue": TemplateCheck(_action_required),
    "renewal-reminder": TemplateCheck(_renewal),
    "trial-ending": TemplateCheck(_trial),
    "trial-reminder": TemplateCheck(_trial),
    "card-expiring": TemplateCheck(_card),
    "payment-method-detached": TemplateCheck(_method_detached),
    "churn-survey": TemplateCheck(_left),
    "win-back": TemplateCheck(_left),
    "dispute-due": TemplateCheck(_dispute, is_for_deleted=True),
}
"""Checks by template."""

OF_PLUGIN = TemplateCheck(_always)
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


def _is_given_up(mail: QueuedMail, payment: Payment) -> bool:
    """Whether Stripe has tried again, and plans no further try. It never plans one of an invoice that is sent."""
    if mail.data.get("is_sent") or mail.data.get("next_attempt_at") is not None:
        return False
    return 1 < int(mail.data.get("attempt", 1)) >= payment.attempt_count


def _has_changed(subscription: Subscription, mail: QueuedMail) -> bool:
    """Whether a renewal's amount is out of date, because the subscription's items have changed since."""
    billed = mail.data.get("billed")
    announced_at = moment(mail.data.get("announced_at")) or mail.now - mail.age
    return billed is not None and items_have_changed(subscription, billed, announced_at, mail.data.get("items"))


def _superseded(mail: QueuedMail, payment: Payment) -> str | None:
    """Return why a later notice takes this one's place, or None."""
    steps = payment.dunning_steps
    due_at = moment(mail.data.get("due_at")) if mail.data.get("is_sent") else None
    if due_at is not None and due_at > mail.now and mail.template != FIRST_NOTICE:
        return "the invoice is not due yet"
    own = steps.get(mail.template)
    if own is None or mail.age < SUPERSEDED_AFTER:
        return None
    later = [at for name, at in steps.items() if name != mail.template and at > own]
    is_reached = any(datetime.fromisoformat(at) <= mail.now for at in later)
    return "a later notice of this invoice is due as well" if is_reached else None


def _days(at: datetime, now: datetime) -> int:
    """The days from `now` to `at`, rounded up."""
    return math.ceil((at - now) / timedelta(days=1))


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
