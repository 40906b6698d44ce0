"""Model of the invoice in `invoice.*`, in one shape for all API versions.

Since 2025-03-31 (basil) the subscription is under `parent`, a line's price under `pricing`, and charge and payment
intent in `payments`. `invoice.upcoming` has no id. https://docs.stripe.com/api/invoices/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from schemas.stripe.fields import (
    Amount,
    Count,
    Currency,
    ExpandableId,
    Id,
    Moment,
    StripeObject,
    Text,
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
    subscription: ExpandableId | None = None
    billing_reason: Text = None
    collection_method: Text = None
    number: Text = None
    currency: Currency
    amount_due: Amount
    amount_paid: Amount | None = None
    attempt_count: Count = 0
    next_payment_attempt: Moment | None = None
    created: Moment | None = None
    due_date: Moment | None = None
    paid_at: Moment | None = None
    hosted_invoice_url: Text = None
    invoice_pdf: Text = None
    charge: ExpandableId | None = None
    payment_intent: ExpandableId | None = None
    failure_reason: Text = None
    period_start: Moment | None = None
    """Start of the period that the subscription's line bills."""
    bills_subscription: bool = False
    """Whether a line of the subscription costs something. False during a trial, even if other items are billed."""

    @model_validator(mode="before")
    @classmethod
    def _one_shape(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        lines = listed(raw, "lines")
        own_lines = [line for line in lines if _is_subscription_line(line)]
        payment = _payment(raw)
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
            "charge": first(raw.get("charge"), payment.get("charge")),
            "payment_intent": first(raw.get("payment_intent"), payment.get("payment_intent")),
            "failure_reason": _failure_reason(raw),
            "period_start": child(own_lines[-1], "period").get("start") if own_lines else None,
            "bills_subscription": any(_is_positive(line.get("amount")) for line in own_lines)
            if lines
            else _is_positive(raw.get("amount_due")),
        }

    @property
    def paid_amount(self) -> int:
        """Minor units. Before 2017 there was no `amount_paid`, and invoices were always paid completely."""
        return self.amount_due if self.amount_paid is None else self.amount_paid


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
    "next_payment_attempt",
    "due_date",
    "hosted_invoice_url",
    "invoice_pdf",
)


def _is_positive(amount: object) -> bool:
    return isinstance(amount, int) and amount > 0


def _is_subscription_line(line: Mapping[str, Any]) -> bool:
    return line.get("type") == "subscription" or child(line, "parent").get("type") == "subscription_item_details"


def _subscription_of_line(line: Mapping[str, Any]) -> Any:
    parent = child(line, "parent")
    return first(
        line.get("subscription"),
        child(parent, "subscription_item_details").get("subscription"),
        child(parent, "invoice_item_details").get("subscription"),
    )


def _payment(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the default one of `payments`. The event has `payments` only if it was expanded."""
    payments = listed(raw, "payments")
    chosen = next((payment for payment in payments if payment.get("is_default")), payments[0] if payments else {})
    return child(chosen, "payment")


def _failure_reason(raw: Mapping[str, Any]) -> Any:
    """Returns why the payment failed, if the event has it: intent and charge have it only if they are expanded."""
    intent, charge = raw.get("payment_intent"), raw.get("charge")
    return first(
        child(intent, "last_payment_error").get("message") if isinstance(intent, Mapping) else None,
        charge.get("failure_message") if isinstance(charge, Mapping) else None,
        child(raw, "last_finalization_error").get("message"),
    )
