"""Inside the rules: how much of a payment was given back, whichever of Stripe's two ways of saying so comes first (C8).

`charge.refunded` says the sum so far, `refund.*` each refund's part. Both are kept by id, each in its newest word, and
the sum is worked out of all of them again: so nothing is counted twice, and no order matters.

    parts    all refunds that are not lost
    told     the newest sum of the charge, less what was lost since (Stripe says that only of the refund)
    given back = the greater of both, since either may be incomplete
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
    """The row after `charge.refunded`. Sums of one second: the greater is the later."""
    charge = event.object
    _check_currency(row, charge.currency, charge.id)
    before = row.refunds.get(charge.id)
    said = {"refunded": charge.amount_refunded, "created": event.created}
    if before is not None and _order_of(said) <= _order_of(before):
        return row
    return _with(row, {charge.id: said})


def apply_refund(row: Payment, event: Event[StripeRefund]) -> Payment:
    """The row after an event of one refund."""
    refund = event.object
    _check_currency(row, refund.currency, refund.id)
    is_lost = event.type == REFUND_FAILED or refund.status in LOST
    word = version(event.created, event.rank, event.id, terminal=is_lost)
    before = row.refunds.get(refund.id)
    if before is not None and word <= before["version"]:
        return row
    return _with(row, {refund.id: {"amount": refund.amount, "lost": is_lost, "version": word}})


def given_back(refunds: Mapping[str, Any]) -> int:
    """Minor units, out of what is kept in `Payment.refunds`."""
    parts = [said for said in refunds.values() if "version" in said]
    charges = [said for said in refunds.values() if "version" not in said]
    told: int = 0
    if charges:
        newest = max(charges, key=_order_of)
        # A refund lost in the very second of the sum was part of it: Stripe makes it first, and loses it after.
        lost = [part for part in parts if part["lost"] and seconds_of(Version(part["version"])) >= newest["created"]]
        told = newest["refunded"] - sum(part["amount"] for part in lost)
    kept: int = sum(part["amount"] for part in parts if not part["lost"])
    return max(told, kept)


def _with(row: Payment, said: Mapping[str, Any]) -> Payment:
    refunds = {**row.refunds, **said}
    return refunded(row, refunds, given_back(refunds))


def _order_of(said: Mapping[str, Any]) -> tuple[int, int]:
    return said["created"], said["refunded"]


def _check_currency(row: Payment, currency: str, stripe_id: str) -> None:
    if row.currency and row.currency != currency:
        raise RuleViolated(f"{stripe_id} is in {currency}, and its payment in {row.currency}")
