"""Stores Stripe's two kinds of events about refunds in the payment's row, in any order (C8).

`charge.refunded` contains the sum of a charge so far, `refund.*` the amount of one refund. Both are stored by id in
their newest version (a lost refund in its earliest), and schemas/payment_facts.py computes the total from all of them,
so no refund counts twice.
A refund that was read at Stripe has both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.fast_row import replace
from schemas.payment_facts import derived, order_of_refund
from schemas.state import Payment
from schemas.stripe.charge import StripeCharge
from schemas.stripe.refund import LOST, StripeRefund
from schemas.version import version

REFUND_FAILED = "refund.failed"


def apply_charge(row: Payment, event: Event[StripeCharge]) -> Payment:
    """The row after `charge.refunded`."""
    charge = event.object
    _check_currency(row, charge.currency, charge.id)
    return _with(row, charge.id, {"refunded": charge.amount_refunded, "created": event.created})


def apply_refund(row: Payment, event: Event[StripeRefund]) -> Payment:
    """The row after an event of one refund."""
    refund = event.object
    _check_currency(row, refund.currency, refund.id)
    is_lost = event.type == REFUND_FAILED or refund.status in LOST
    new_version = version(event.created, event.rank, event.id, terminal=is_lost)
    entry = {"amount": refund.amount, "lost": is_lost, "charge": refund.charge, "version": new_version}
    row = _with(row, refund.id, entry)
    charge = refund.charge_read
    if charge is None:
        return row
    return _with(row, charge.id, {"refunded": charge.amount_refunded, "created": event.created, "read": True})


def _with(row: Payment, id_: str, entry: Mapping[str, Any]) -> Payment:
    before = row.refunds.get(id_)
    if before is not None and order_of_refund(entry) <= order_of_refund(before):
        return row
    return derived(replace(row, refunds={**row.refunds, id_: entry}))


def _check_currency(row: Payment, currency: str, stripe_id: str) -> None:
    if row.currency and row.currency != currency:
        raise RuleViolated(f"{stripe_id} is in {currency}, but its payment is in {row.currency}")
