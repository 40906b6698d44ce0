"""The dunning steps after a failed invoice: each runs once, until the invoice is paid (behaviours.md C3).

The steps are configured in `rules.dunning`. A step by attempt sends its mail at once; a step by days starts a timer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from schemas.effects import CancelTimers, Effect, QueueEmail, StartTimer
from schemas.event import Event
from schemas.known import Known
from schemas.settings import DunningStep
from schemas.state import Customer, Payment
from schemas.statuses import TimerStatus
from schemas.stripe.invoice import SEND_INVOICE, StripeInvoice
from streams.rules.mails import iso, mail, money, stripe_link

DUNNING_REMINDER = "dunning-reminder"


def notice(known: Known, event: Event[StripeInvoice], customer: Customer) -> QueueEmail | None:
    """Returns the mail of this attempt; None if no step is configured for it."""
    invoice = event.object
    step = step_of(known.config.rules.dunning, invoice)
    if step is None:
        return None
    return step_mail(step.template, invoice.id or "", customer, problem(known, invoice), invoice.customer_email)


def step_of(steps: tuple[DunningStep, ...], invoice: StripeInvoice) -> DunningStep | None:
    """Returns the step of this attempt: the final step if Stripe stops retrying or the attempt is beyond all steps.

    A first attempt is never final: the customer knows nothing yet, or is still in the checkout. An invoice
    that the customer pays by hand (`send_invoice`) never has a next attempt, so that does not make it final either.
    """
    attempt = max(1, invoice.attempt_count)  # the oldest events count from 0
    is_retried = attempt > 1 and invoice.collection_method != SEND_INVOICE
    is_given_up = is_retried and invoice.next_payment_attempt is None
    last = max((number for step in steps for number in step.attempts), default=0)
    final = next((step for step in steps if step.final), None)
    if final is not None and (is_given_up or attempt > last):
        return final
    return next((step for step in steps if attempt in step.attempts), None)


def reached_by(steps: tuple[DunningStep, ...], event: Event[StripeInvoice]) -> dict[str, datetime]:
    """The times (UTC) of the steps after a failed attempt, by template: this attempt's step and those by days."""
    times = {step.template: event.at + timedelta(days=step.after_days) for step in steps if step.after_days is not None}
    now = step_of(steps, event.object)
    return times if now is None else times | {now.template: event.at}


def step_mail(
    template: str, invoice_id: str, customer: Customer, data: dict[str, Any], recipient: str | None
) -> QueueEmail:
    """Returns a step's mail. Its key allows one per invoice and template."""
    return mail(template, f"dunning:{invoice_id}:{template}", customer, data, recipient=recipient)


def invoice_of(order: QueueEmail) -> str | None:
    """Returns the id of the invoice if this is the mail of a step, None for any other mail."""
    kind, _, rest = order.key.partition(":")
    invoice_id = rest.removeprefix(f"{order.account}:").removesuffix(f":{order.template}")
    return invoice_id if kind == "dunning" else None


def problem(known: Known, invoice: StripeInvoice) -> dict[str, Any]:
    """The template data of every step: the facts of this attempt."""
    return {
        "number": invoice.number,
        "amount": money(invoice.remaining_amount, invoice.currency),
        "due_at": iso(invoice.due_date),
        "next_attempt_at": iso(invoice.next_payment_attempt),
        "hosted_url": stripe_link(known.config, invoice.hosted_invoice_url),
        "update_url": known.config.mail.update_payment_url,
        "attempt": max(1, invoice.attempt_count),
        "reason": invoice.failure_reason,
        "is_sent": invoice.collection_method == SEND_INVOICE,
    }


def reminders(
    known: Known, event: Event[StripeInvoice], customer: Customer, before: Payment | None, after: Payment
) -> list[Effect]:
    """Starts the timers of the steps by days, counted from the first failure; a later attempt updates their data.

    Only the first failure to arrive starts them, because timers that fired or were cancelled are not loaded.
    """
    invoice = event.object
    is_first = before is None or before.first_failed_at is None
    is_newest = after.version == event.version
    open_timers = {
        timer.timer_key: timer
        for timer in known.timers_of(event.account, customer.customer_id, DUNNING_REMINDER, invoice.id or "")
    }
    effects: list[Effect] = []
    for step in known.config.rules.dunning:
        if step.after_days is None or after.first_failed_at is None:
            continue
        key = f"{DUNNING_REMINDER}:{event.account}:{invoice.id}:{step.template}"
        pending = open_timers.get(key)
        if not is_first and (pending is None or pending.status is not TimerStatus.PENDING):
            continue
        due_at = after.first_failed_at + timedelta(days=step.after_days)
        data = {"template": step.template, "to": invoice.customer_email, "mail": problem(known, invoice)}
        if pending is not None and not is_newest:
            data = dict(pending.data)
        if pending is not None and (pending.due_at, pending.data) == (due_at, data):
            continue
        effects.append(
            StartTimer(
                key=key,
                account=event.account,
                customer_id=customer.customer_id,
                kind=DUNNING_REMINDER,
                subject=invoice.id or "",
                due_at=due_at,
                data=data,
            )
        )
    return effects


def stop(known: Known, account: str, customer_id: str, invoice_id: str) -> list[Effect]:
    """Cancels the pending timers of an invoice that was paid or closed (behaviours.md C1, C3)."""
    is_pending = any(
        timer.status is TimerStatus.PENDING
        for timer in known.timers_of(account, customer_id, DUNNING_REMINDER, invoice_id)
    )
    if not is_pending:
        return []
    return [CancelTimers(account=account, customer_id=customer_id, kinds=(DUNNING_REMINDER,), subject=invoice_id)]
