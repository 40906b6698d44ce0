"""Model of the invoice in `invoice.*`, in one shape for all API versions.

Since 2025-03-31 (basil) the subscription is under `parent`, a line's price under `pricing`, and charge and payment
intent in `payments`. `invoice.upcoming` has no id. https://docs.stripe.com/api/invoices/object
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from schemas.stripe.fields import (
    Amount,
    Count,
    Currency,
    ExpandableId,
    Id,
    Moment,
    StripeObject,
    Text,
    address_of,
    child,
    first,
    listed,
)

FIRST_INVOICE = "subscription_create"
"""`billing_reason` of the first invoice of a subscription."""

SEND_INVOICE = "send_invoice"
"""`collection_method` of an invoice that the customer pays manually. Stripe does not charge it automatically."""


class StripeInvoice(StripeObject):
    id: Id | None = None
    customer: ExpandableId | None = None
    customer_email: Text = None
    customer_name: Text = None
    customer_address: Mapping[str, Any] = Field(default_factory=dict)
    subscription: ExpandableId | None = None
    billing_reason: Text = None
    collection_method: Text = None
    number: Text = None
    currency: Currency
    amount_due: Amount
    amount_paid: Amount | None = None
    amount_remaining: Amount | None = None
    total: int | None = None
    tax: int | None = None
    """The tax in `total`, included in the prices or added to them. None: the event does not say."""
    status: Text = None
    attempt_count: Count = 0
    next_payment_attempt: Moment | None = None
    created: Moment | None = None
    due_date: Moment | None = None
    paid_at: Moment | None = None
    hosted_invoice_url: Text = None
    invoice_pdf: Text = None
    charges: tuple[ExpandableId, ...] = ()
    payment_intents: tuple[ExpandableId, ...] = ()
    """Of every payment of the invoice that the event names: it may be paid in several parts."""
    failure_reason: Text = None
    period_start: Moment | None = None
    """Start of the period that the subscription's line bills."""
    bills_subscription: bool = False
    """Whether a line of the subscription costs something. False during a trial, even if other items are billed."""

    billed: tuple[str, ...] | None = None
    """`price:quantity` of the lines that bill a whole period. None: the event leaves lines out."""

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        lines = listed(raw, "lines")
        own_lines = [line for line in lines if _is_subscription_line(line)]
        payments = [child(payment, "payment") for payment in listed(raw, "payments")]
        subscription = first(
            raw.get("subscription"),
            child(child(raw, "parent"), "subscription_details").get("subscription"),
            next((found for line in lines if (found := _subscription_of_line(line))), None),
        )
        return {
            **{name: raw.get(name) for name in _AS_SENT},
            "subscription": subscription,
            "attempt_count": first(raw.get("attempt_count"), 0),
            "paid_at": child(raw, "status_transitions").get("paid_at"),
            "charges": _named(raw.get("charge"), *(payment.get("charge") for payment in payments)),
            "payment_intents": _named(
                raw.get("payment_intent"), *(payment.get("payment_intent") for payment in payments)
            ),
            "total": _amount_or_none(raw.get("total")),
            "tax": _tax(raw),
            "customer_address": address_of(raw, "customer_address"),
            "failure_reason": _failure_reason(raw),
            "period_start": child(own_lines[-1], "period").get("start") if own_lines else None,
            "billed": None if child(raw, "lines").get("has_more") is True else _billed(own_lines),
            "bills_subscription": _bills_subscription(raw, lines, own_lines),
        }

    @property
    def paid_amount(self) -> int:
        """Minor units. Before 2017 there was no `amount_paid`, and invoices were always paid completely."""
        return self.amount_due if self.amount_paid is None else self.amount_paid

    @property
    def remaining_amount(self) -> int:
        """Minor units that are left to pay: less than `amount_due` after a partial payment."""
        if self.amount_remaining is not None:
            return self.amount_remaining
        return self.amount_due - (self.amount_paid or 0)

    @property
    def is_paid_in_full(self) -> bool:
        """Whether what was paid is the invoice's total: no credit balance or earlier invoice is part of it."""
        return self.total is not None and self.total == self.paid_amount

    @property
    def is_draft(self) -> bool:
        """Whether the invoice was never finalized, so that no one was asked to pay it. Very old events lack it."""
        return self.status == "draft"

    @property
    def is_closed(self) -> bool:
        """Whether Stripe no longer asks for it: it was voided or marked uncollectible. The latter may still be paid."""
        return self.status in ("void", "uncollectible")


_AS_SENT = (
    "id",
    "customer",
    "customer_email",
    "customer_name",
    "billing_reason",
    "collection_method",
    "number",
    "created",
    "currency",
    "amount_due",
    "amount_paid",
    "amount_remaining",
    "status",
    "next_payment_attempt",
    "due_date",
    "hosted_invoice_url",
    "invoice_pdf",
)


def _bills_subscription(raw: Mapping[str, Any], lines: Sequence[Any], own_lines: Sequence[Any]) -> bool:
    """The event has at most ten lines. If it leaves lines out, only a line that costs something is conclusive."""
    if any(_is_positive(line.get("amount")) for line in own_lines):
        return True
    is_complete = bool(lines) and child(raw, "lines").get("has_more") is not True
    return not is_complete and _is_positive(raw.get("amount_due"))


def _tax(raw: Mapping[str, Any]) -> int | None:
    """Returns the sum of the taxes: `total_taxes` since 2025-03-31 (basil), `tax` or `total_tax_amounts` before."""
    if raw.get("tax") is not None:
        return _amount_or_none(raw["tax"])
    taxes = first(raw.get("total_taxes"), raw.get("total_tax_amounts"))
    if not isinstance(taxes, list) or not taxes:
        return None
    amounts = [_amount_or_none(tax.get("amount")) if isinstance(tax, Mapping) else None for tax in taxes]
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _amount_or_none(value: object) -> int | None:
    """Returns minor units that only a receipt shows. An odd value is no reason to refuse the invoice."""
    return value if type(value) is int and abs(value) < 2**53 else None


def _is_positive(amount: object) -> bool:
    return isinstance(amount, int) and amount > 0


def _is_subscription_line(line: Mapping[str, Any]) -> bool:
    return line.get("type") == "subscription" or child(line, "parent").get("type") == "subscription_item_details"


def _billed(lines: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
    found: list[str] = []
    for line in lines:
        details, pricing = child(child(line, "parent"), "subscription_item_details"), child(line, "pricing")
        if first(details.get("proration"), line.get("proration"), False) is True:
            continue
        price = first(child(pricing, "price_details").get("price"), child(line, "price").get("id"))
        if not isinstance(price, str):
            return None
        found.append(f"{price}:{line.get('quantity')}")
    return tuple(found) or None


def _subscription_of_line(line: Mapping[str, Any]) -> Any:
    parent = child(line, "parent")
    return first(
        line.get("subscription"),
        child(parent, "subscription_item_details").get("subscription"),
        child(parent, "invoice_item_details").get("subscription"),
    )


def _named(*ids: Any) -> tuple[Any, ...]:
    return tuple(found for found in ids if found is not None)


def _failure_reason(raw: Mapping[str, Any]) -> Any:
    """Returns why the payment failed, if the event has it: intent and charge have it only if they are expanded."""
    intent, charge = raw.get("payment_intent"), raw.get("charge")
    return first(
        child(intent, "last_payment_error").get("message") if isinstance(intent, Mapping) else None,
        charge.get("failure_message") if isinstance(charge, Mapping) else None,
        child(raw, "last_finalization_error").get("message"),
    )
