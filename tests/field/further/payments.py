"""Refunds, parts and several intents of one payment, accounts and API shapes (C8, C12, C14)."""

from __future__ import annotations

from local.stripe import payments as pay
from local.stripe.builder import ApiShape, Price
from tests.field.further.kit import ALONE, HOUR, STARTER, Life, Maker
from tests.kits.rulekit import DAY, NOW

YEN = Price("price_pro_monthly", 5000, "jpy")


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    a, b = Maker(shape, "acct_a"), Maker(shape, "acct_b")
    x, y = Maker(shape, "acct_a"), Maker(shape, "acct_b")
    o, n = Maker(ApiShape.OLD), Maker(ApiShape.NEW)
    return [
        Life(
            "same ids on two accounts and the platform",
            [
                a.sub(0, "active", "created"),
                b.sub(0, "active", "created", price=STARTER),
                m.sub(0, "trialing", "created", trial_end=NOW + 9 * DAY),
                a.failed(DAY),
                a.sub(DAY, "past_due", previous={"status": "active"}),
                b.paid(DAY),
                m.sub(2 * DAY, "canceled", "deleted", ended_at=NOW + 2 * DAY),
            ],
            {
                "acct_a/sub_1.status": "past_due",
                "acct_b/sub_1.status": "active",
                "sub_1.status": "canceled",
                "acct_a/in_1.status": "failed",
                "acct_b/in_1.status": "succeeded",
                "acct_b/sub_1.plan": "starter",
                "acct_a/cus_1.email": "jane@example.com",
            },
            fires=None,
        ),
        Life(
            "old and new shapes mixed in one life",
            [
                o.sub(0, "active", "created"),
                n.failed(DAY),
                o.sub(DAY, "past_due", previous={"status": "active"}),
                o.failed(4 * DAY, 2),
                n.paid(6 * DAY),
                o.sub(6 * DAY, "active", previous={"status": "past_due"}),
                n.sub(
                    30 * DAY,
                    "active",
                    previous={"latest_invoice": "in_1"},
                    start=NOW + 30 * DAY,
                    created=NOW,
                    latest_invoice="in_2",
                ),
                o.paid(30 * DAY + HOUR, id_="in_2", created=30 * DAY),
            ],
            {
                "sub_1.status": "active",
                "sub_1.current_period_end": 60 * DAY,
                "in_1.status": "succeeded",
                "in_2.status": "succeeded",
                "org_1.next_billing_at": 60 * DAY,
            },
            {"payment-receipt": 2},
        ),
        Life(
            "refund before the charge and the invoice",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.charge(2 * DAY, "refunded", refunded=900),
                m.refund(2 * DAY, "created", amount=900),
                m.charge(3 * DAY, "refunded", refunded=2900),
                m.refund(3 * DAY, "created", "re_2", amount=2000),
            ],
            {"in_1.status": "refunded", "in_1.refunded_amount": 2900, "in_1.amount": 2900},
            {"payment-receipt": 1},
        ),
        Life(
            "full refund that fails, then another that succeeds in part",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.refund(2 * DAY, "created", status="pending"),
                m.charge(2 * DAY, "refunded", refunded=2900),
                m.refund(4 * DAY, "failed", status="failed"),
                m.of(4 * DAY, "charge.refund.updated", pay.refund(m.make, status="failed")),
                m.refund(5 * DAY, "created", "re_2", amount=1000),
                m.charge(5 * DAY, "refunded", refunded=1000),
            ],
            {"in_1.status": "refunded", "in_1.refunded_amount": 1000},
        ),
        Life(
            "two refunds within a second",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.charge(2 * DAY, "refunded", refunded=500),
                m.charge(2 * DAY, "refunded", refunded=1200),
                m.refund(2 * DAY, "created", amount=500),
                m.refund(2 * DAY, "created", "re_2", amount=700),
            ],
            {"in_1.refunded_amount": 1200},
        ),
        Life(
            "a refund that needs action, then canceled",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.refund(2 * DAY, "created", amount=500, status="requires_action"),
                m.refund(4 * DAY, "updated", amount=500, status="canceled"),
            ],
            {"in_1.refunded_amount": 0, "in_1.status": "succeeded"},
        ),
        Life(
            "paid in three parts, one out of band, one refunded",
            [
                m.inv(0, "updated", amount=2900, **ALONE),
                m.part(DAY, amount=900),
                m.part(2 * DAY, 2, amount=1000),
                m.part(3 * DAY, 3, amount=1000),
                m.paid(3 * DAY, **ALONE),
                m.charge(DAY, "succeeded", amount=900),
                m.charge(2 * DAY, "succeeded", "ch_2", payment_intent="pi_2", amount=1000),
                m.charge(3 * DAY, "succeeded", "ch_3", payment_intent="pi_3", amount=1000),
                m.charge(5 * DAY, "refunded", "ch_2", payment_intent="pi_2", amount=1000, refunded=1000),
                m.refund(5 * DAY, "created", amount=1000, charge="ch_2", payment_intent="pi_2"),
            ],
            {
                "in_1.status": "refunded",
                "in_1.refunded_amount": 1000,
                "in_1.amount": 2900,
                "ch_3.status": "refunded",
                "pi_1.amount": 2900,
            },
            {"payment-receipt": 1},
        ),
        Life(
            "the first intent is canceled, the second pays",
            [
                m.failed(DAY),
                m.intent(DAY, "payment_failed", failure="Insufficient funds."),
                m.intent(2 * DAY, "canceled", status="canceled", amount_received=0),
                m.intent(2 * DAY, "succeeded", "pi_2", charge="ch_2"),
                m.charge(2 * DAY, "succeeded", "ch_2", payment_intent="pi_2"),
                m.part(
                    2 * DAY,
                ),
                m.paid(2 * DAY),
            ],
            {"in_1.status": "succeeded", "in_1.failure_reason": None, "ch_2.invoice_id": "in_1"},
            {"payment-receipt": 1},
        ),
        Life(
            "same charge and refund ids on two accounts",
            [
                x.paid(DAY, **ALONE),
                x.part(
                    DAY,
                ),
                x.charge(2 * DAY, "refunded", refunded=500),
                y.paid(DAY, **ALONE),
                y.part(
                    DAY,
                ),
                y.dispute(
                    2 * DAY,
                    "created",
                    2 * DAY,
                ),
            ],
            {
                "acct_a/in_1.refunded_amount": 500,
                "acct_b/in_1.refunded_amount": 0,
                "acct_b/in_1.on_hold": True,
                "acct_a/in_1.on_hold": False,
            },
            fires=None,
        ),
        Life(
            "refund known through the intent's order reference alone",
            [
                m.paid(DAY, **ALONE),
                m.intent(DAY, "succeeded", charge="ch_1"),
                m.refund(2 * DAY, "created", amount=100),
            ],
            {"in_1.refunded_amount": 100, "in_1.status": "refunded"},
        ),
        Life(
            "refund names the charge only",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.refund(2 * DAY, "created", amount=100, payment_intent=None),
            ],
            {"in_1.refunded_amount": 100},
        ),
        Life(
            "two parts, both refunded, in two refunds each",
            [
                m.part(DAY, amount=900),
                m.part(2 * DAY, 2, amount=2000),
                m.paid(2 * DAY, **ALONE),
                m.charge(DAY, "succeeded", amount=900),
                m.charge(2 * DAY, "succeeded", "ch_2", payment_intent="pi_2", amount=2000),
                m.charge(5 * DAY, "refunded", amount=900, refunded=400),
                m.charge(6 * DAY, "refunded", amount=900, refunded=900),
                m.refund(5 * DAY, "created", amount=400),
                m.refund(6 * DAY, "created", "re_2", amount=500),
                m.refund(7 * DAY, "created", "re_3", amount=2000, charge="ch_2", payment_intent="pi_2"),
                m.charge(7 * DAY, "refunded", "ch_2", payment_intent="pi_2", amount=2000, refunded=2000),
            ],
            {"in_1.refunded_amount": 2900, "in_1.status": "refunded"},
        ),
        Life(
            "three refunds within one second, one of which fails in it",
            [
                *[m.paid(DAY, **ALONE), m.part(DAY), m.charge(DAY, "succeeded")],
                *[m.refund(2 * DAY, "created", f"re_{at}", amount=500 + 200 * at) for at in range(3)],
                *[m.charge(2 * DAY, "refunded", refunded=amount) for amount in (500, 1200, 2100)],
                m.refund(2 * DAY, "failed", "re_1", amount=700, status="failed"),
            ],
            {"in_1.refunded_amount": 1400, "in_1.status": "refunded"},
        ),
        Life(
            "yen are refunded in two parts, one of which fails",
            [
                m.paid(DAY, price=YEN, **ALONE),
                *[m.part(DAY), m.charge(DAY, "succeeded", amount=5000, currency="jpy")],
                m.refund(2 * DAY, "created", amount=2000, currency="jpy"),
                m.charge(2 * DAY, "refunded", amount=5000, currency="jpy", refunded=2000),
                m.refund(3 * DAY, "created", "re_2", amount=1000, currency="jpy", status="pending"),
                m.charge(3 * DAY, "refunded", amount=5000, currency="jpy", refunded=3000),
                m.refund(5 * DAY, "failed", "re_2", amount=1000, currency="jpy", status="failed"),
            ],
            {"in_1.amount": 5000, "in_1.currency": "jpy", "in_1.refunded_amount": 2000},
        ),
        Life(
            "refunded in part, and the rest is lost by a dispute",
            [
                *[m.paid(DAY, **ALONE), m.part(DAY), m.charge(DAY, "succeeded")],
                *[m.charge(2 * DAY, "refunded", refunded=900), m.refund(2 * DAY, "created", amount=900)],
                m.dispute(5 * DAY, "created", 5 * DAY, due=12 * DAY, amount=2000),
                m.dispute(5 * DAY, "funds_withdrawn", 5 * DAY, due=12 * DAY, amount=2000),
                m.dispute(20 * DAY, "closed", 5 * DAY, due=12 * DAY, amount=2000, status="lost"),
            ],
            {"in_1.status": "lost", "in_1.refunded_amount": 900, "in_1.on_hold": False, "dp_1.status": "lost"},
            {"dispute-opened": 1, "dispute-lost": 1},
        ),
        Life(
            "an inquiry ends because its charge is refunded",
            [
                *[m.paid(DAY, **ALONE), m.part(DAY), m.charge(DAY, "succeeded")],
                m.dispute(5 * DAY, "created", 5 * DAY, due=12 * DAY, status="warning_needs_response"),
                *[m.charge(6 * DAY, "refunded", refunded=2900), m.refund(6 * DAY, "created")],
                m.dispute(6 * DAY, "closed", 5 * DAY, due=12 * DAY, status="charge_refunded"),
            ],
            {"in_1.status": "refunded", "in_1.on_hold": False, "dp_1.status": "charge_refunded"},
            {"dispute-opened": 1, "dispute-lost": 0, "dispute-due": 0},
            fires=(),
        ),
    ]
