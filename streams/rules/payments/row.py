"""Applies events of invoices and checkouts to a payment's row, in any order.

Succeeded beats failed beats pending, whatever the time: a paid payment stays paid until it is refunded. Facts that any
event may add (the first failure, the attempts, Stripe's ids) are kept from all events. Whether a failed invoice was
recovered or lost is derived from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.event import Event
from schemas.fast_row import replace
from schemas.known import Known
from schemas.state import Payment, PaymentStatus
from schemas.stripe.checkout_session import CheckoutSession
from schemas.stripe.invoice import StripeInvoice
from schemas.version import UNSEEN, Version, version
from streams.rules.precedence import weak

PAID = frozenset({PaymentStatus.SUCCEEDED, PaymentStatus.REFUNDED})


def payment_of(known: Known, account: str, invoice_id: str | None, session_id: str | None = None) -> Payment:
    """Returns the row of an invoice or a one-time checkout. With both ids it is the invoice's, so money counts once."""
    named = invoice_id or session_id
    if named is None:
        raise ValueError("a payment needs an invoice or a checkout session")
    stored = known.payment(account, named) or (known.payment(account, session_id) if session_id else None)
    return stored or Payment(payment_id=Payment.id_of(account, named), account=account)


def invoice_paid(row: Payment, event: Event[StripeInvoice], customer_id: str | None) -> Payment:
    """The row of a paid invoice (behaviours.md C1)."""
    invoice = event.object
    row = _of_invoice(row, invoice, customer_id)
    row = replace(row, charge_id=row.charge_id or invoice.charge)  # the charge that paid, not one that failed
    return _succeeded(row, event, invoice.paid_amount, invoice.currency, paid_at=invoice.paid_at or event.at)


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
    steps = dict(row.dunning_steps)
    for template, at in reached.items():
        steps[template] = min(steps.get(template, at.isoformat()), at.isoformat())
    row = replace(
        _of_invoice(row, invoice, customer_id),
        first_failed_at=_earliest(row.first_failed_at, event.at),
        dunning_steps=steps,
        lost_at=_earliest(row.lost_at, event.at) if is_final else row.lost_at,
    )
    return _with_recovery(_failed(row, event, invoice.amount_due, invoice.currency, invoice.failure_reason))


def invoice_closed(row: Payment, event: Event[StripeInvoice], customer_id: str | None) -> Payment:
    """The row of an invoice that was voided, written off or deleted. Earlier attempts stay recorded."""
    invoice, new_version = event.object, weak(event.version)
    row = _of_invoice(row, invoice, customer_id)
    if new_version > row.version:
        status = _status(row, PaymentStatus.PENDING)
        row = replace(row, amount=invoice.amount_due, currency=invoice.currency, status=status, version=new_version)
    closed_at = _earliest(row.closed_at, event.at)
    return _with_recovery(replace(row, closed_at=closed_at, lost_at=_earliest(row.lost_at, closed_at)))


def apply_checkout_payment(row: Payment, event: Event[CheckoutSession], amount: int, currency: str) -> Payment:
    """The row of a completed one-time checkout, paid or with its payment still pending (B2)."""
    row = _of_checkout(row, event)
    if event.object.is_paid:
        row = replace(row, fulfilled_at=min(row.fulfilled_at or event.at, event.at))
        return _succeeded(row, event, amount, currency, paid_at=event.at)
    new_version = weak(event.version)
    if new_version <= row.version:
        return row
    status = _status(row, PaymentStatus.PENDING)
    return replace(row, amount=amount, currency=currency, status=status, version=new_version)


def checkout_failed(row: Payment, event: Event[CheckoutSession], amount: int, currency: str) -> Payment:
    """The row of a one-time checkout whose delayed payment failed; the session contains no reason."""
    row = _of_checkout(row, event)
    row = replace(row, first_failed_at=_earliest(row.first_failed_at, event.at))
    return _failed(row, event, amount, currency, None)


def _succeeded(row: Payment, event: Event[Any], amount: int, currency: str, **facts: Any) -> Payment:
    new_version: Version = version(event.created, event.rank, event.id, terminal=True)
    if new_version <= row.version:
        return row
    status = _status(row, PaymentStatus.SUCCEEDED)
    row = replace(row, amount=amount, currency=currency, status=status, version=new_version, **facts)
    return _with_recovery(_without_reason(row))


def _failed(row: Payment, event: Event[Any], amount: int, currency: str, reason: str | None) -> Payment:
    if event.version > row.version:
        status = _status(row, PaymentStatus.FAILED)
        row = replace(row, amount=amount, currency=currency, status=status, version=event.version)
    return declined(row, event, reason)


def declined(row: Payment, event: Event[Any], reason: str | None) -> Payment:
    """The row with the decline reason of the newest event that has one; none once it is paid (behaviours.md C2, C10).

    Since 2025-03-31 (basil) invoices do not contain the reason. Payment intents do; before basil, charges did too.
    """
    if row.status in PAID or reason is None or event.version <= row.failure_version:
        return row
    return replace(row, failure_reason=reason, failure_version=event.version)


def refunded(row: Payment, refunds: Mapping[str, Any], amount: int) -> Payment:
    """The row with its refunds and the total refunded amount in minor units (behaviours.md C8)."""
    row = replace(row, refunds=refunds, refunded_amount=amount)
    return _with_recovery(_without_reason(replace(row, status=_status(row, row.status))))


def _status(row: Payment, otherwise: PaymentStatus) -> PaymentStatus:
    """Refunded beats every other status. A payment with any refund was paid, even if that refund failed."""
    if row.refunded_amount > 0:
        return PaymentStatus.REFUNDED
    return PaymentStatus.SUCCEEDED if row.refunds else otherwise


def _with_recovery(row: Payment) -> Payment:
    """The row with `recovered_by` and `lost_at` derived from its facts; a paid payment is not lost."""
    if row.status not in PAID:
        return row
    steps = [] if row.paid_at is None else [(at, name) for name, at in row.dunning_steps.items()]
    before = [(at, name) for at, name in steps if row.paid_at and datetime.fromisoformat(at) <= row.paid_at]
    return replace(row, recovered_by=max(before)[1] if before else None, lost_at=None)


def _earliest(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else min(one, other)


def _without_reason(row: Payment) -> Payment:
    return replace(row, failure_reason=None, failure_version=UNSEEN)


def _of_invoice(row: Payment, invoice: StripeInvoice, customer_id: str | None) -> Payment:
    return replace(
        row,
        invoice_id=row.invoice_id or invoice.id,
        customer_id=row.customer_id or customer_id,
        subscription_id=row.subscription_id or invoice.subscription,
        payment_intent_id=row.payment_intent_id or invoice.payment_intent,
        attempt_count=max(row.attempt_count, invoice.attempt_count),
    )


def _of_checkout(row: Payment, event: Event[CheckoutSession]) -> Payment:
    session = event.object
    return replace(
        row,
        invoice_id=row.invoice_id or session.invoice,
        checkout_session_id=row.checkout_session_id or session.id,
        customer_id=row.customer_id or session.customer or event.customer_id,
        payment_intent_id=row.payment_intent_id or session.payment_intent,
    )
