"""Computes how much of a payment was refunded from Stripe's two kinds of events, in any order (C8).

`charge.refunded` contains the sum so far, `refund.*` the amount of one refund. Both are stored by id in their newest
version, and the total is computed from all of them each time, so that no refund counts twice.

    refunds        the sum of all refunds that are not lost
    charge total   the newest sum of the charge, minus refunds lost since (only the refund's events report a loss)
    refunded       the greater of the two, because either may be incomplete
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import RuleViolated
from schemas.event import Event
from schemas.state import Payment
from schemas.stripe.charge import StripeCharge
from schemas.stripe.refund import LOST, StripeRefund
from schemas.version import Version, version
from streams.rules.payments.row import refunded
from streams.rules.precedence import seconds_of

REFUND_FAILED = "refund.failed"


def apply_charge(row: Payment, event: Event[StripeCharge]) -> Payment:
    """The row after `charge.refunded`. Of two sums in one second, the greater is the later."""
    charge = event.object
    _check_currency(row, charge.currency, charge.id)
    before = row.refunds.get(charge.id)
    entry = {"refunded": charge.amount_refunded, "created": event.created}
    if before is not None and _order_of(entry) <= _order_of(before):
        return row
    return _with(row, {charge.id: entry})


def apply_refund(row: Payment, event: Event[StripeRefund]) -> Payment:
    """The row after an event of one refund."""
    refund = event.object
    _check_currency(row, refund.currency, refund.id)
    is_lost = event.type == REFUND_FAILED or refund.status in LOST
    new_version = version(event.created, event.rank, event.id, terminal=is_lost)
    before = row.refunds.get(refund.id)
    if before is not None and new_version <= before["version"]:
        return row
    return _with(row, {refund.id: {"amount": refund.amount, "lost": is_lost, "version": new_version}})


def given_back(refunds: Mapping[str, Any]) -> int:
    """Returns the refunded amount in minor units, computed from `Payment.refunds`."""
    parts = [entry for entry in refunds.values() if "version" in entry]
    charges = [entry for entry in refunds.values() if "version" not in entry]
    charge_total: int = 0
    if charges:
        newest = max(charges, key=_order_of)
        # A refund lost in the second of the sum is part of the sum: Stripe creates a refund before it fails.
        lost = [part for part in parts if part["lost"] and seconds_of(Version(part["version"])) >= newest["created"]]
        charge_total = newest["refunded"] - sum(part["amount"] for part in lost)
    kept: int = sum(part["amount"] for part in parts if not part["lost"])
    return max(charge_total, kept)


def _with(row: Payment, entries: Mapping[str, Any]) -> Payment:
    refunds = {**row.refunds, **entries}
    return refunded(row, refunds, given_back(refunds))


def _order_of(entry: Mapping[str, Any]) -> tuple[int, int]:
    return entry["created"], entry["refunded"]


def _check_currency(row: Payment, currency: str, stripe_id: str) -> None:
    if row.currency and row.currency != currency:
        raise RuleViolated(f"{stripe_id} is in {currency}, but its payment is in {row.currency}")
