"""Applies events of invoices and checkouts to a payment's row, in any order.

Succeeded beats failed beats pending, whatever the time: a paid payment stays paid until it is refunded or lost. Facts
that any event may add (the first failure, the attempts) are kept from all events. What follows from the facts is
computed in schemas/payment_facts.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.event import Event
from schemas.fast_row import replace
from schemas.payment_facts import PAID, derived, earliest, earliest_steps
from schemas.state import Payment
from schemas.stripe.checkout_session import CheckoutSession
from schemas.stripe.invoice import StripeInvoice
from schemas.version import UNSEEN, Version, version
from streams.rules import same_second
from streams.rules.precedence import INVOICE_FAILED, weak

__all__ = ["PAID"]

_OWED = {"due": "amount_due", "remaining": "amount_remaining"}
"""Fields of `owed` and of the invoice."""


def invoice_paid(row: Payment, event: Event[StripeInvoice], customer_id: str | None) -> Payment:
    """The row of a paid invoice (behaviours.md C1)."""
    invoice = event.object
    row = _of_invoice(row, invoice, customer_id)
    return succeeded(row, event, invoice.paid_amount, invoice.currency, paid_at=invoice.paid_at or event.at)


def invoice_failed(
    row: Payment,
    event: Event[StripeInvoice],
    customer_id: str | None,
    *,
    reached: Mapping[str, datetime],
    is_final: bool,
) -> Payment:
    """The row of an invoice whose payment failed (behaviours.md C2), with the dunning steps that it reached (C3).

    A step has the time from the earliest failure that reaches it; for a step by days that is the first failure.
    """
    invoice = event.object
    row = replace(
        _with_owed(_of_invoice(row, invoice, customer_id), event),
        first_failed_at=earliest(row.first_failed_at, event.at),
        dunning_steps=earliest_steps(row.dunning_steps, {name: at.isoformat() for name, at in reached.items()}),
        lost_at=earliest(row.lost_at, event.at) if is_final else row.lost_at,
    )
    return _failed(row, event, invoice.amount_due, invoice.currency, invoice.failure_reason)


def invoice_closed(row: Payment, event: Event[StripeInvoice], customer_id: str | None) -> Payment:
    """The row of an invoice that was voided, written off or deleted. Earlier attempts stay recorded."""
    row = replace(_of_invoice(row, event.object, customer_id), closed_at=earliest(row.closed_at, event.at))
    return invoice_changed(row, event, customer_id)


def invoice_changed(row: Payment, event: Event[StripeInvoice], customer_id: str | None) -> Payment:
    """The row of an unpaid invoice that owes another amount now (behaviours.md C15)."""
    invoice, new_version = event.object, weak(event.version)
    row = _with_owed(_of_invoice(row, invoice, customer_id), event)
    if new_version > row.version:
        row = replace(row, amount=invoice.amount_due, currency=invoice.currency, version=new_version)
    return derived(row)


def is_owed_undecided(before: Payment | None, after: Payment) -> bool:
    """Whether an event left open which of those of its second shows what the unpaid invoice owes."""
    if before is None or after.owed == before.owed or after.status in PAID or after.closed_at is not None:
        return False
    return same_second.is_undecided(after.owed.get("tied", ()))


def apply_checkout_payment(row: Payment, event: Event[CheckoutSession], amount: int, currency: str) -> Payment:
    """The row of a completed one-time checkout, paid or with its payment still pending (B2)."""
    row = _of_checkout(row, event)
    if event.object.is_paid:
        row = replace(row, fulfilled_at=earliest(row.fulfilled_at, event.at))
        return succeeded(row, event, amount, currency, paid_at=event.at)
    new_version = weak(event.version)
    if new_version > row.version:
        row = replace(row, amount=amount, currency=currency, version=new_version)
    return derived(row)


def checkout_failed(row: Payment, event: Event[CheckoutSession], amount: int, currency: str) -> Payment:
    """The row of a one-time checkout whose delayed payment failed; the session contains no reason."""
    row = _of_checkout(row, event)
    row = replace(row, first_failed_at=earliest(row.first_failed_at, event.at))
    return _failed(row, event, amount, currency, None)


def succeeded(row: Payment, event: Event[Any], amount: int, currency: str, *, paid_at: datetime) -> Payment:
    """The row after an event of a payment that was made. The newest of these events gives amount and time."""
    new_version = version(event.created, event.rank, event.id, terminal=True)
    if new_version > row.version:
        row = replace(row, amount=amount, currency=currency, paid_at=paid_at, version=new_version)
    return derived(row)


def declined(row: Payment, event: Event[Any], reason: str | None) -> Payment:
    """The row with the decline reason of the newest event that has one; none once it is paid (behaviours.md C2, C10).

    Since 2025-03-31 (basil) invoices do not contain the reason. Payment intents do; before basil, charges did too.
    """
    if row.status in PAID or reason is None or event.version <= row.failure_version:
        return row
    return replace(row, failure_reason=reason, failure_version=event.version)


def _failed(row: Payment, event: Event[Any], amount: int, currency: str, reason: str | None) -> Payment:
    if event.version > row.version:
        row = replace(row, amount=amount, currency=currency, version=event.version)
    return declined(derived(row), event, reason)


def _with_owed(row: Payment, event: Event[StripeInvoice]) -> Payment:
    """The row with what the invoice owes, from the newest of its events.

    Within one second the amounts that an event replaced decide, whatever the types: a credit note may follow a failure.
    Without such amounts it is the rank of the types, until Stripe has answered (`is_owed_undecided`).
    """
    invoice, owed = event.object, row.owed
    new = {
        "version": version(event.created, INVOICE_FAILED, f"{event.rank:02d}:{event.id}"),
        "previous": {ours: event.previous[theirs] for ours, theirs in _OWED.items() if theirs in event.previous},
        "facts": {"due": invoice.amount_due, "remaining": invoice.remaining_amount},
    }
    entry = {name: owed[name] for name in ("previous", "tied") if name in owed}
    stored = {name: owed.get(name) for name in _OWED}
    found = same_second.settled(entry, Version(owed.get("version", UNSEEN)), stored, new)
    if found is None:
        return row
    latest, entry = found
    return replace(row, owed={**latest["facts"], "at": event.created, "version": latest["version"], **entry})


def _of_invoice(row: Payment, invoice: StripeInvoice, customer_id: str | None) -> Payment:
    return replace(
        row,
        customer_id=row.customer_id or customer_id,
        subscription_id=row.subscription_id or invoice.subscription,
        attempt_count=max(row.attempt_count, invoice.attempt_count),
    )


def _of_checkout(row: Payment, event: Event[CheckoutSession]) -> Payment:
    return replace(row, customer_id=row.customer_id or event.object.customer or event.customer_id)
