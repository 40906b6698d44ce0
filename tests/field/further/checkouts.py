"""One-time purchases: captured later, delayed, free (B2)."""

from __future__ import annotations

from local.stripe.builder import ApiShape, Price
from tests.field.further.kit import ALONE, MANUAL, Life, Maker
from tests.kits.rulekit import DAY


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [
        Life(
            "manual capture in part",
            [
                m.session(0, "completed", "unpaid", payment_intent="pi_1"),
                m.intent(DAY, "succeeded", charge="ch_1", amount_received=2000, **MANUAL),
                m.charge(DAY, "succeeded", invoice=None),
            ],
            {"pi_1.status": "succeeded", "pi_1.amount": 2000},
            {"payment-receipt": 1},
        ),
        Life(
            "manual capture canceled, a second session is captured",
            [
                m.session(0, "completed", "unpaid", payment_intent="pi_1"),
                m.intent(
                    DAY,
                    "canceled",
                    status="canceled",
                    **MANUAL,
                ),
                m.session(DAY, "completed", "unpaid", payment_intent="pi_2", id_="cs_2"),
                m.intent(2 * DAY, "succeeded", "pi_2", charge="ch_2", **MANUAL),
            ],
            {"pi_1.status": "closed", "cs_2.status": "succeeded", "cs_2.amount": 2900},
            {"payment-receipt": 1},
        ),
        Life(
            "manual capture, captured, then refunded",
            [
                m.session(0, "completed", "unpaid", payment_intent="pi_1"),
                m.intent(DAY, "succeeded", charge="ch_1", **MANUAL),
                m.refund(
                    2 * DAY,
                    "created",
                ),
                m.charge(2 * DAY, "refunded", refunded=2900, invoice=None),
            ],
            {"pi_1.status": "refunded", "pi_1.refunded_amount": 2900},
            {"payment-receipt": 1},
        ),
        Life(
            "delayed payment fails, customer tries another session",
            [
                m.session(0, "completed", "unpaid", payment_intent="pi_1"),
                m.session(3 * DAY, "async_payment_failed", "unpaid", payment_intent="pi_1"),
                m.session(4 * DAY, "completed", "paid", payment_intent="pi_2", id_="cs_2"),
            ],
            {"cs_1.status": "failed", "cs_2.status": "succeeded"},
            {"payment-receipt": 1},
        ),
        Life(
            "delayed payment of a yen guest, with invoice",
            [
                m.session(
                    0,
                    "completed",
                    "unpaid",
                    payment_intent=None,
                    customer=None,
                    currency="jpy",
                    amount=5000,
                    invoice_creation={"enabled": True},
                ),
                m.paid(4 * DAY, **ALONE, price=Price("price_j", 5000, "jpy"), customer=None),
                m.part(4 * DAY, amount=5000, currency="jpy"),
                m.session(
                    4 * DAY,
                    "async_payment_succeeded",
                    "paid",
                    payment_intent=None,
                    invoice="in_1",
                    customer=None,
                    currency="jpy",
                    amount=5000,
                    invoice_creation={"enabled": True},
                ),
            ],
            {"cs_1.status": "succeeded", "cs_1.currency": "jpy", "cs_1.amount": 5000, "cs_1.invoice_id": "in_1"},
        ),
        Life(
            "free one-time session",
            [
                m.session(0, "completed", "no_payment_required", payment_intent=None, amount=0),
            ],
            {"cs_1.status": "succeeded", "cs_1.amount": 0},
            {"payment-receipt": 0},
        ),
        Life(
            "expired session pays nothing",
            [m.session(DAY, "expired", "unpaid", status="expired", payment_intent=None, customer=None, email=None)],
            {"cs_1.status": "no row"},
        ),
        Life(
            "a purchase with an invoice is refunded through the session's intent",
            [
                m.session(
                    0, "completed", "paid", payment_intent="pi_1", invoice="in_1", invoice_creation={"enabled": True}
                ),
                m.paid(30, **ALONE),
                m.intent(30, "succeeded", charge="ch_1", invoice=None if shape == ApiShape.NEW else "in_1"),
                m.charge(DAY, "refunded", refunded=2900, invoice=None),
                m.refund(
                    DAY,
                    "created",
                ),
            ],
            {"in_1.status": "refunded", "cs_1.refunded_amount": 2900},
            {"payment-receipt": 1},
        ),
    ]
