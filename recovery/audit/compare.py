"""Compares one object of Stripe with its row. Pure: what was read goes in, the differing fields come out.

Only what both sides state is compared. Amounts are in minor units and are never converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pydantic import ValidationError

from recovery.audit.differences import Cause, Fields, Kind
from schemas.payment_facts import PAID, given_back_of_charges
from schemas.settings import Config
from schemas.stripe.charge import StripeCharge
from schemas.stripe.invoice import StripeInvoice
from schemas.stripe.refund import LOST, StripeRefund
from schemas.stripe.subscription import StripeSubscription
from streams.rules.subscription_row import main_item

Json = Mapping[str, Any]
Row = Mapping[str, Any]

_ENDED = ("canceled", "incomplete_expired")
_LATEST = 253_402_300_800
"""The year 10000, in epoch seconds: no date is later."""
_CLOSED = ("closed", "refunded", "lost")
MISSING: Fields = {"row": ["exists", "missing"]}


@dataclass(frozen=True, slots=True)
class AuditedMoney:
    """What an object adds to a total: minor units at Stripe (`amount`) and in the table (`ours`), on a day in UTC."""

    day: date
    currency: str
    amount: int
    ours: int


@dataclass(frozen=True, slots=True)
class ComparedObject:
    """The result for one object. No `fields`: it agrees."""

    fields: Fields = field(default_factory=dict)
    cause: Cause | None = None
    """Set if the object itself shows the cause."""
    money: AuditedMoney | None = None


@dataclass(frozen=True, slots=True)
class AuditWindow:
    """The audited time [start, end), in UTC."""

    start: datetime
    end: datetime

    def has(self, moment: datetime | None) -> bool:
        return moment is not None and self.start <= moment < self.end


def compared(kind: Kind, item: Json, row: Row | None, window: AuditWindow, config: Config) -> ComparedObject:
    """Compare one object of `kind` with its row, None if there is none."""
    try:
        match kind:
            case Kind.SUBSCRIPTION:
                return _subscription(StripeSubscription.model_validate(item), row, window, config)
            case Kind.INVOICE:
                return _invoice(StripeInvoice.model_validate(item), row, window)
            case Kind.CHARGE:
                return _charge(StripeCharge.model_validate(item), item, row)
            case Kind.REFUND:
                return _refund(StripeRefund.model_validate(item), item, row)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        at = ".".join(map(str, first["loc"]))
        return ComparedObject({"object": [f"{at}: {first['msg']}" if at else first["msg"], None]}, Cause.UNREADABLE)
    raise ValueError(f"{kind} is not an object of Stripe")


def _differing(theirs: Json, ours: Row) -> dict[str, list[Any]]:
    return {
        name: [_plain(value), _plain(ours[name])]
        for name, value in theirs.items()
        if _plain(value) != _plain(ours[name])
    }


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return [*value] if isinstance(value, (list, tuple)) else value


def _items(items: Any) -> list[str]:
    return sorted(f"{item['price']} x {item['quantity']}" for item in items if item.get("price") is not None)


def _subscription(
    subscription: StripeSubscription, row: Row | None, window: AuditWindow, config: Config
) -> ComparedObject:
    if row is None:
        is_new = subscription.created is not None and subscription.created >= window.end
        return ComparedObject() if is_new else ComparedObject(MISSING)
    items: list[dict[str, Any]] = [{"price": item.price, "quantity": item.quantity} for item in subscription.items]
    theirs = {
        "customer_id": subscription.customer,
        "status": str(subscription.status),
        "items": _items(items),
        "currency": subscription.currency,
        "current_period_start": subscription.current_period_start,
        "current_period_end": subscription.current_period_end,
        "trial_end": subscription.trial_end,
        "cancel_at": subscription.cancel_at,
        "cancel_at_period_end": subscription.cancel_at_period_end,
        "canceled_at": subscription.canceled_at,
        "ended_at": subscription.ended_at,
        "pause_collection": subscription.pause_collection,
    }
    found = _differing(theirs, {**row, "items": _items(row["items"])})
    cause = Cause.INCOMPLETE if not items and "items" in found else None
    return ComparedObject(found, cause) if found else _plan(subscription, row, config)


def _plan(subscription: StripeSubscription, row: Row, config: Config) -> ComparedObject:
    """Compare the plan with the one that the configuration has for the subscription now."""
    item = main_item([item.model_dump() for item in subscription.items], config)
    if item is None or subscription.status in _ENDED or subscription.has_more_items:
        return ComparedObject()
    price, stored = item["price"], row["plan"]
    is_chosen = row["checkout_plan"] in config.plans and price == row["first_price_id"]
    plan = row["checkout_plan"] if is_chosen else config.plan_of_price(price)
    if plan is not None and plan == stored:
        return ComparedObject()
    prices = ", ".join(sorted(one.price for one in subscription.items if one.price is not None))
    cause = Cause.OTHER_PLAN if plan is not None and stored is not None else Cause.UNKNOWN_PRICE
    return ComparedObject({"plan": [plan or f"no plan has {prices}", stored]}, cause)


def _invoice(invoice: StripeInvoice, row: Row | None, window: AuditWindow) -> ComparedObject:
    is_paid = invoice.status == "paid"
    is_paid_in_window = is_paid and window.has(invoice.paid_at)
    if not window.has(invoice.created) and not is_paid_in_window:
        return ComparedObject()
    if is_paid and invoice.paid_at is not None and invoice.paid_at >= window.end:
        return ComparedObject()  # of the next audit
    money = None
    if is_paid_in_window and invoice.paid_at is not None:
        money = AuditedMoney(invoice.paid_at.astimezone(UTC).date(), invoice.currency, invoice.paid_amount, 0)
    if row is None:  # an invoice needs no row before it is paid
        return ComparedObject(MISSING if is_paid else {}, money=money)
    if is_paid:
        theirs: dict[str, Any] = {"paid": True, "amount": invoice.paid_amount, "currency": invoice.currency}
        if invoice.paid_at is not None:
            theirs["paid_at"] = invoice.paid_at
    elif invoice.status in ("void", "uncollectible"):
        theirs = {"closed": True}
    else:
        theirs = {"paid": False, "currency": invoice.currency}
    ours = {**row, "paid": row["status"] in PAID, "closed": row["status"] in _CLOSED}
    return ComparedObject(_differing(theirs, ours), money=money)


def _charge(charge: StripeCharge, item: Json, row: Row | None) -> ComparedObject:
    """Compare a payment without invoice. Charges of invoices are compared as invoices."""
    is_paid = item.get("status") == "succeeded" and item.get("captured") is not False
    if row is None or row["invoice_id"] is not None or not is_paid:
        return ComparedObject()
    theirs: dict[str, Any] = {"paid": True, "currency": charge.currency}
    if row["charge_id"] == charge.id and row["checkout_session_id"] is not None:
        theirs["amount"] = item.get("amount_captured", item.get("amount"))
    return ComparedObject(_differing(theirs, {**row, "paid": row["status"] in PAID}))


def _refund(refund: StripeRefund, item: Json, row: Row | None) -> ComparedObject:
    if refund.charge is None and refund.payment_intent is None:
        return ComparedObject()  # the return of a cash balance belongs to no payment
    is_lost = refund.status in LOST
    amount = 0 if is_lost else refund.amount
    sums = _sums(refund, row)
    ours = _refunded(refund, row, amount, sums)
    money = None
    created = item.get("created")
    if type(created) is int and 0 <= created < _LATEST:
        day = datetime.fromtimestamp(created, UTC).date()
        money = AuditedMoney(day, refund.currency, amount, ours or 0)
    if row is None or ours is None:
        return ComparedObject({} if is_lost else MISSING, money=money)
    theirs = {"amount": amount, "currency": refund.currency}
    found = _differing(theirs, {"amount": ours, "currency": row["currency"]})
    if sums is not None and sums[0] != sums[1]:
        found["refunded_amount"] = [*sums]
    return ComparedObject(found, money=money)


def _refunded(refund: StripeRefund, row: Row | None, amount: int, sums: tuple[int, int] | None) -> int | None:
    """Return the refund's amount in the table, 0 if it failed, None if the table does not have it.

    `amount` is what it has returned by Stripe.
    """
    if row is None:
        return None
    entry = row["refunds"].get(refund.id)
    if entry is not None:
        return 0 if entry["lost"] else int(entry["amount"])
    # The endpoint may be sent only `charge.refunded`, whose sum shows what refunds have returned, not which of them.
    total = row["refunds"].get(refund.charge or "")
    if total is None:
        return None
    if sums is not None:
        return min(max(0, amount + sums[1] - sums[0]), refund.amount)
    return amount if total.get("refunded", 0) >= amount else None


def _sums(refund: StripeRefund, row: Row | None) -> tuple[int, int] | None:
    """Return the sum of the charge's refunds, by Stripe and in the table; None if one of them does not have it."""
    charge = refund.charge_read
    if charge is None or row is None:
        return None
    ours = given_back_of_charges(row["refunds"]).get(charge.id)
    return (charge.amount_refunded, ours) if ours is not None else None


PAID_STATUSES = sorted(map(str, PAID))
