"""Builds the objects of the payments stream in Stripe's format, like local/stripe/builder.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local.stripe.builder import StripeEvents

Json = dict[str, Any]

DAY_S = 86_400


def payment_method(
    make: StripeEvents,
    id_: str = "pm_1",
    *,
    customer: str | None = "cus_1",
    expiry: tuple[int, int] = (2030, 4),
    last4: str = "4242",
    created: int = 0,
    **more: Any,
) -> Json:
    """Return a card payment method. `expiry` is (year, month)."""
    card = {"brand": "visa", "country": "DE", "exp_month": expiry[1], "exp_year": expiry[0], "last4": last4}
    return {
        "id": id_,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {"address": None, "email": None, "name": None, "phone": None},
        "card": card | {"fingerprint": f"fp{last4}", "funding": "credit"},
        "created": created,
        "customer": customer,
        "livemode": make.livemode,
        "metadata": {},
        "type": "card",
    } | more


def card(
    make: StripeEvents,  # noqa: ARG001  # every builder is called the same way
    id_: str = "card_1",
    *,
    customer: str | None = "cus_1",
    expiry: tuple[int, int] = (2030, 4),
    last4: str = "0341",
) -> Json:
    """Return a card source, Stripe's predecessor of payment methods."""
    return {
        "id": id_,
        "object": "card",
        "brand": "Visa",
        "country": "DE",
        "customer": customer,
        "exp_month": expiry[1],
        "exp_year": expiry[0],
        "funding": "credit",
        "last4": last4,
        "metadata": {},
        "name": None,
    }


def charge(
    make: StripeEvents,
    id_: str = "ch_1",
    *,
    invoice: str | None = "in_1",
    payment_intent: str | None = "pi_1",
    customer: str | None = "cus_1",
    amount: int = 2900,
    currency: str = "eur",
    refunded: int = 0,
    failure: str | None = None,
    created: int = 0,
    **more: Any,
) -> Json:
    """Return a charge. `refunded` is the sum of all refunds. The new API shape has no `invoice`."""
    obj: Json = {
        "id": id_,
        "object": "charge",
        "amount": amount,
        "amount_captured": 0 if failure else amount,
        "amount_refunded": refunded,
        "captured": failure is None,
        "created": created,
        "currency": currency,
        "customer": customer,
        "disputed": False,
        "failure_code": "card_declined" if failure else None,
        "failure_message": failure,
        "livemode": make.livemode,
        "metadata": {},
        "paid": failure is None,
        "payment_intent": payment_intent,
        "refunded": refunded >= amount,
        "status": "failed" if failure else "succeeded",
    }
    return obj | ({"invoice": invoice} if _is_old(make) else {}) | more


def payment_intent(
    make: StripeEvents,
    id_: str = "pi_1",
    *,
    invoice: str | None = "in_1",
    customer: str | None = "cus_1",
    amount: int = 2900,
    currency: str = "eur",
    charge: str | None = None,
    failure: str | None = None,
    created: int = 0,
    **more: Any,
) -> Json:
    error = {"code": "card_declined", "message": failure, "type": "card_error"} if failure else None
    obj: Json = {
        "id": id_,
        "object": "payment_intent",
        "amount": amount,
        "amount_received": 0 if failure else amount,
        "created": created,
        "currency": currency,
        "customer": customer,
        "last_payment_error": error,
        "latest_charge": charge,
        "livemode": make.livemode,
        "metadata": {},
        "payment_method_types": ["card"],
        "status": "requires_payment_method" if failure else "succeeded",
    }
    own = {"invoice": invoice} if _is_old(make) else {"payment_details": {"order_reference": invoice}}
    return obj | own | more


def invoice_payment(
    make: StripeEvents,
    id_: str = "inpay_1",
    *,
    invoice: str = "in_1",
    payment_intent: str = "pi_1",
    amount: int = 2900,
    currency: str = "eur",
    created: int = 0,
) -> Json:
    return {
        "id": id_,
        "object": "invoice_payment",
        "amount_paid": amount,
        "amount_requested": amount,
        "created": created,
        "currency": currency,
        "invoice": invoice,
        "is_default": True,
        "livemode": make.livemode,
        "payment": {"payment_intent": payment_intent, "type": "payment_intent"},
        "status": "paid",
        "status_transitions": {"canceled_at": None, "paid_at": created},
    }


def refund(
    make: StripeEvents,  # noqa: ARG001  # every builder is called the same way
    id_: str = "re_1",
    *,
    amount: int = 2900,
    currency: str = "eur",
    charge: str | None = "ch_1",
    payment_intent: str | None = "pi_1",
    status: str = "succeeded",
    created: int = 0,
    **more: Any,
) -> Json:
    return {
        "id": id_,
        "object": "refund",
        "amount": amount,
        "charge": charge,
        "created": created,
        "currency": currency,
        "metadata": {},
        "payment_intent": payment_intent,
        "reason": "requested_by_customer",
        "status": status,
    } | more


def dispute(
    make: StripeEvents,
    id_: str = "dp_1",
    *,
    amount: int = 2900,
    currency: str = "eur",
    charge: str = "ch_1",
    payment_intent: str | None = "pi_1",
    status: str = "needs_response",
    due_by: int | None = None,
    created: int = 0,
    **more: Any,
) -> Json:
    return {
        "id": id_,
        "object": "dispute",
        "amount": amount,
        "charge": charge,
        "created": created,
        "currency": currency,
        "evidence": {},
        "evidence_details": {"due_by": due_by, "has_evidence": False, "past_due": False, "submission_count": 0},
        "is_charge_refundable": False,
        "livemode": make.livemode,
        "metadata": {},
        "payment_intent": payment_intent,
        "reason": "fraudulent",
        "status": status,
    } | more


def credit_note(make: StripeEvents, id_: str = "cn_1", *, created: int = 0, **more: Any) -> Json:
    """Return a credit note of 9.00 on the open invoice in_1."""
    obj: Json = {
        "id": id_,
        "object": "credit_note",
        "amount": 900,
        "created": created,
        "currency": "eur",
        "customer": "cus_1",
        "invoice": "in_1",
        "livemode": make.livemode,
        "memo": "Partial month",
        "metadata": {},
        "pre_payment_amount": 900,
        "post_payment_amount": 0,
        "status": "issued",
        "type": "pre_payment",
        "voided_at": None,
    }
    return obj | more


def early_fraud_warning(make: StripeEvents, id_: str = "issfr_1", *, created: int = 0) -> Json:
    return {
        "id": id_,
        "object": "radar.early_fraud_warning",
        "actionable": True,
        "charge": "ch_1",
        "created": created,
        "fraud_type": "made_with_stolen_card",
        "livemode": make.livemode,
        "payment_intent": "pi_1",
    }


def payout(make: StripeEvents, id_: str = "po_1", *, created: int = 0, **more: Any) -> Json:
    return {
        "id": id_,
        "object": "payout",
        "amount": 110_000,
        "arrival_date": created,
        "automatic": True,
        "created": created,
        "currency": "eur",
        "destination": "ba_1",
        "failure_code": "account_closed",
        "failure_message": "The bank account has been closed.",
        "livemode": make.livemode,
        "metadata": {},
        "status": "failed",
        "type": "bank_account",
    } | more


def account(make: StripeEvents) -> Json:
    return {
        "id": make.account or "acct_1",
        "object": "account",
        "charges_enabled": True,
        "country": "DE",
        "default_currency": "eur",
        "details_submitted": True,
        "payouts_enabled": True,
        "type": "standard",
    }


def _is_old(make: StripeEvents) -> bool:
    return make.shape.name == "OLD"


PAYMENT_EXAMPLES: Mapping[str, Callable[[StripeEvents, int], tuple[Json, Json | None]]] = {
    "payment_method.attached": lambda make, at: (payment_method(make, created=at), None),
    "payment_method.updated": lambda make, at: (payment_method(make, created=at), {"billing_details": {}}),
    "payment_method.automatically_updated": lambda make, at: (
        payment_method(make, created=at - DAY_S),
        {"card": {"exp_month": 3, "exp_year": 2027}},
    ),
    "payment_method.card_automatically_updated": lambda make, at: (
        payment_method(make, created=at - DAY_S),
        {"card": {"exp_month": 3, "exp_year": 2027}},
    ),
    "payment_method.detached": lambda make, at: (
        payment_method(make, customer=None, created=at - DAY_S),
        {"customer": "cus_1"},
    ),
    "customer.source.expiring": lambda make, _: (card(make), None),
    "customer.source.updated": lambda make, _: (card(make), {"exp_year": 2027}),
    "customer.source.deleted": lambda make, _: (card(make), None),
    "charge.succeeded": lambda make, at: (charge(make, created=at), None),
    "charge.failed": lambda make, at: (charge(make, "ch_0", failure="Your card was declined.", created=at), None),
    "charge.refunded": lambda make, at: (charge(make, refunded=2900, created=at), {"amount_refunded": 0}),
    "invoice_payment.paid": lambda make, at: (invoice_payment(make, created=at), None),
    "payment_intent.succeeded": lambda make, at: (payment_intent(make, charge="ch_1", created=at), None),
    "payment_intent.canceled": lambda make, at: (
        payment_intent(make, created=at - DAY_S, status="canceled", amount_received=0, canceled_at=at),
        None,
    ),
    "payment_intent.payment_failed": lambda make, at: (
        payment_intent(make, charge="ch_0", failure="Your card was declined.", created=at),
        None,
    ),
    "credit_note.created": lambda make, at: (credit_note(make, created=at), None),
    "credit_note.updated": lambda make, at: (credit_note(make, created=at), {"memo": None}),
    "credit_note.voided": lambda make, at: (
        credit_note(make, created=at - DAY_S, status="void", voided_at=at),
        {"status": "issued"},
    ),
    "refund.created": lambda make, at: (refund(make, created=at), None),
    "refund.updated": lambda make, at: (refund(make, created=at), {"status": "pending"}),
    "refund.failed": lambda make, at: (refund(make, status="failed", created=at), {"status": "pending"}),
    "charge.refund.updated": lambda make, at: (refund(make, created=at), {"status": "pending"}),
    "charge.dispute.created": lambda make, at: (dispute(make, due_by=at + 9 * DAY_S, created=at), None),
    "charge.dispute.updated": lambda make, at: (
        dispute(make, status="under_review", due_by=at + 9 * DAY_S, created=at - DAY_S),
        {"status": "needs_response"},
    ),
    "charge.dispute.funds_withdrawn": lambda make, at: (dispute(make, due_by=at + 9 * DAY_S, created=at), None),
    "charge.dispute.funds_reinstated": lambda make, at: (dispute(make, status="won", created=at - 20 * DAY_S), None),
    "charge.dispute.closed": lambda make, at: (dispute(make, status="won", created=at - 20 * DAY_S), None),
    "payout.failed": lambda make, at: (payout(make, created=at), None),
    "radar.early_fraud_warning.created": lambda make, at: (early_fraud_warning(make, created=at), None),
    "account.updated": lambda make, _: (account(make), {"payouts_enabled": False}),
}
"""Examples of payment events, by type."""
