"""Judge withheld mails after a run: the final rows must show what the stored reason claims.

A mail that was withheld for no reason is a lost mail, so each reason has its own question here, written from what the
reason says and not from the code that withheld it (sinks/email/checks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from schemas.state import Customer, Dispute, Payment, PaymentMethod, Row, Subscription
from schemas.statuses import PaymentStatus

State = Mapping[type[Any], Mapping[tuple[str, ...], Row]]
R = TypeVar("R", bound=Row)

_ENDED = ("canceled", "incomplete_expired")


class Facts:
    """The final rows about one mail. `subject` is the Stripe id in the mail's key, `kind:account:subject[:…]`."""

    def __init__(self, mail: Mapping[str, Any], state: State) -> None:
        self.mail = mail
        self.account, self.subject = mail["email_key"].split(":")[1:3]
        self._state = state

    def customer(self) -> Customer | None:
        return self._row(Customer, self.mail["customer_id"] or "")

    def payment(self) -> Payment | None:
        """The payment of the invoice that the mail is about."""
        rows = (row for row in self._state[Payment].values() if isinstance(row, Payment))
        return next((row for row in rows if (row.account, row.invoice_id) == (self.account, self.subject)), None)

    def subscription(self, subscription_id: str | None) -> Subscription | None:
        return self._row(Subscription, subscription_id or "")

    def method(self) -> PaymentMethod | None:
        return self._row(PaymentMethod, self.subject)

    def dispute(self) -> Dispute | None:
        return self._row(Dispute, self.subject)

    def of_customer(self, kind: type[R]) -> list[R]:
        rows = (row for row in self._state[kind].values() if isinstance(row, kind))
        owner = (self.account, self.mail["customer_id"])
        return [row for row in rows if (getattr(row, "account", None), getattr(row, "customer_id", None)) == owner]

    def _row(self, kind: type[R], stripe_id: str) -> R | None:
        row = self._state[kind].get((self.account, stripe_id))
        return row if isinstance(row, kind) else None


def _is_paid(facts: Facts) -> bool:
    payment = facts.payment()
    return payment is not None and payment.paid_at is not None


def _is_closed(facts: Facts) -> bool:
    payment = facts.payment()
    return payment is not None and (payment.closed_at is not None or payment.status is PaymentStatus.CLOSED)


def _owes_nothing(facts: Facts) -> bool:
    payment = facts.payment()
    return payment is not None and payment.amount_remaining == 0


def _has_ended(facts: Facts) -> bool:
    payment = facts.payment()
    named = payment.subscription_id if payment is not None else facts.mail["data"].get("subscription_id")
    row = facts.subscription(named) or facts.subscription(facts.subject)
    return row is not None and row.status in _ENDED


def _trial_is_over(facts: Facts) -> bool:
    row = facts.subscription(facts.subject)
    return row is None or row.status != "trialing" or row.trial_end is None or row.trial_end <= datetime.now(UTC)


def _trial_has_moved(facts: Facts) -> bool:
    row = facts.subscription(facts.subject)
    claimed = _time(facts.mail["data"].get("trial_end"))
    return _trial_is_over(facts) or (row is not None and row.trial_end != claimed)


def _is_active_again(facts: Facts) -> bool:
    payment = facts.payment()
    row = facts.subscription(payment.subscription_id) if payment is not None else None
    if row is None:
        return False
    has_gone_on = row.latest_invoice != facts.subject  # by now it may have failed again, or ended
    return row.status in ("active", "trialing", *_ENDED) or has_gone_on


def _is_due_later(facts: Facts) -> bool:
    data = facts.mail["data"]
    return data.get("is_sent") is True and data.get("due_at") is not None


def _has_later_notice(facts: Facts) -> bool:
    payment = facts.payment()
    return payment is not None and len(payment.dunning_steps) > 1


def _is_erased(facts: Facts) -> bool:
    row = facts.customer()
    return row is not None and row.erased_at is not None


def _is_deleted(facts: Facts) -> bool:
    row = facts.customer()
    return row is not None and row.deleted_at is not None


def _came_back(facts: Facts) -> bool:
    return len(facts.of_customer(Subscription)) > 1


def _is_removed(facts: Facts) -> bool:
    row = facts.method()
    return row is None or row.detached_at is not None


def _is_renewed(facts: Facts) -> bool:
    row, data = facts.method(), facts.mail["data"]
    return row is not None and (row.exp_year, row.exp_month) != (data.get("exp_year"), data.get("exp_month"))


def _is_replaced(facts: Facts) -> bool:
    customer = facts.customer()
    others = [row for row in facts.of_customer(PaymentMethod) if row.payment_method_id != facts.subject]
    return bool(others) or (customer is not None and customer.default_payment_method not in (None, facts.subject))


def _expires_soon(facts: Facts) -> bool:
    row = facts.method()
    if row is None or row.exp_year is None or row.exp_month is None:
        return False
    last_month = datetime(row.exp_year, row.exp_month, 1, tzinfo=UTC)
    return datetime.now(UTC) > last_month + timedelta(days=20)


def _dispute_is_over(facts: Facts) -> bool:
    row = facts.dispute()
    return row is not None and (row.closed_at is not None or row.status in ("under_review", "warning_under_review"))


def _deadline_has_moved(facts: Facts) -> bool:
    row = facts.dispute()
    return row is not None and (row.due_by is None or row.due_by != _time(facts.mail["data"].get("due_at")))


def _deadline_has_passed(facts: Facts) -> bool:
    row = facts.dispute()
    return row is not None and (row.due_by is None or row.due_by <= datetime.now(UTC))


def _renewal_has_passed(facts: Facts) -> bool:
    renews_at = _time(facts.mail["data"].get("renews_at"))
    return renews_at is not None and renews_at <= datetime.now(UTC)


def _renewing(facts: Facts) -> Subscription | None:
    return facts.subscription(facts.mail["data"].get("subscription_id"))


def _price_has_changed(facts: Facts) -> bool:
    row, billed = _renewing(facts), facts.mail["data"].get("billed") or []
    return row is not None and billed != [f"{row.price_id}:{row.quantity}"]


def _is_paused(facts: Facts) -> bool:
    row = _renewing(facts)
    return row is not None and (row.pause_collection is not None or row.status == "paused")


def _is_unpaid(facts: Facts) -> bool:
    row = _renewing(facts)
    return row is not None and row.status == "unpaid"


def _does_not_renew(facts: Facts) -> bool:
    row = _renewing(facts)
    return row is not None and _ends(row)


def _ends(row: Subscription) -> bool:
    return row.status in _ENDED or row.cancel_at_period_end is True or row.cancel_at is not None


def _is_not_charged(facts: Facts) -> bool:
    """No subscription is left that would be charged to the customer's default method or to the card of the mail."""
    return all(
        _ends(row)
        or row.pause_collection is not None
        or row.status in ("paused", "unpaid", "incomplete")
        or row.collection_method == "send_invoice"
        or row.default_payment_method not in (None, facts.subject)
        for row in facts.of_customer(Subscription)
    )


def _has_methods_of_their_own(facts: Facts) -> bool:
    return all(_ends(row) or row.default_payment_method is not None for row in facts.of_customer(Subscription))


SHOWN_BY: Mapping[str, Callable[[Facts], bool]] = {
    "the invoice has been paid": _is_paid,
    "the invoice has been closed": _is_closed,
    "nothing remains to be paid of the invoice": _owes_nothing,
    "the subscription has ended": _has_ended,
    "the subscription is active again": _is_active_again,
    "the invoice is not due yet": _is_due_later,
    "a later notice of this invoice is due as well": _has_later_notice,
    "the trial is over": _trial_is_over,
    "the trial's end has been moved": _trial_has_moved,
    "the customer has been deleted": _is_deleted,
    "the customer has been erased": _is_erased,
    "the customer has come back": _came_back,
    "the card has been removed": _is_removed,
    "the card has been renewed": _is_renewed,
    "the card has been replaced": _is_replaced,
    "the card has expired": _expires_soon,
    "the notice 7 days before the expiry is due as well": _expires_soon,
    "the dispute is closed": _dispute_is_over,
    "evidence has been submitted": _dispute_is_over,
    "the dispute has another deadline": _deadline_has_moved,
    "the deadline has passed": _deadline_has_passed,
    "the renewal date has passed": _renewal_has_passed,
    "another payment method has been added": lambda facts: bool(facts.of_customer(PaymentMethod)),
    "the mail about the subscription's end has the export's link": _is_deleted,
    "the price or the quantity has changed since, and so has the amount": _price_has_changed,
    "the collection of payments is paused": _is_paused,
    "Stripe does not collect the invoices of an unpaid subscription": _is_unpaid,
    "the subscription will not renew": _does_not_renew,
    "no subscription will be charged to the card": _is_not_charged,
    "no subscription will be charged": _is_not_charged,
    "each subscription has a payment method of its own": _has_methods_of_their_own,
    "the invoice is not stored": lambda facts: facts.payment() is None,
    "the dispute is not stored": lambda facts: facts.dispute() is None,
}
"""Reasons that a run may store, each with what the final rows must show. Any other reason is a finding."""


def is_justified(mail: Mapping[str, Any], state: State) -> bool:
    """Whether the final rows show what this withheld mail's reason (`last_error`) claims."""
    shown = SHOWN_BY.get(mail["last_error"] or "")
    return shown is not None and shown(Facts(mail, state))


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text is not None else None
