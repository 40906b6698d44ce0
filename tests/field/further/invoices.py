"""Amounts of invoices: credit notes, balances, payments outside Stripe, closed ones (C15)."""

from __future__ import annotations

from local.stripe import payments as pay
from local.stripe.builder import ApiShape, Price
from tests.field.further.kit import ALONE, Life, Maker
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [
        Life(
            "credit note before payment, the rest is paid",
            [
                m.failed(DAY, **ALONE),
                m.note(
                    2 * DAY,
                ),
                m.paid(3 * DAY, amount=2000, **ALONE),
            ],
            {"in_1.status": "succeeded", "in_1.amount": 2000, "in_1.amount_remaining": 0},
            {"payment-receipt": 1},
        ),
        Life(
            "credit note before payment is voided again",
            [
                m.failed(DAY, **ALONE),
                m.note(
                    2 * DAY,
                ),
                m.note(3 * DAY, "voided", 2 * DAY, status="void", voided_at=NOW + 3 * DAY),
            ],
            {"in_1.status": "failed", "in_1.amount_remaining": 2900},
        ),
        Life(
            "two credit notes and invoice.updated",
            [
                m.failed(DAY, **ALONE),
                m.note(
                    2 * DAY,
                ),
                m.inv(
                    2 * DAY, "updated", amount=2000, previous={"amount_due": 2900, "amount_remaining": 2900}, **ALONE
                ),
                m.note(3 * DAY, id_="cn_2", amount=500, pre_payment_amount=500),
            ],
            {"in_1.status": "failed", "in_1.amount_remaining": 1500},
        ),
        Life(
            "paid by credit balance in part",
            [
                m.sub(0, "active", "created"),
                m.paid(0, amount=1000, reason="subscription_create", starting_balance=-1900, total=2900),
            ],
            {"in_1.amount": 1000, "in_1.status": "succeeded", "sub_1.status": "active"},
            {"payment-receipt": 1},
        ),
        Life(
            "paid by credit balance as a whole, renewing",
            [
                m.sub(0, "active", "created"),
                m.renewed(30 * DAY, "active", {"latest_invoice": "in_1"}),
                m.paid(30 * DAY, id_="in_2", amount=0, created=30 * DAY),
            ],
            {"in_2.amount": 0, "in_2.status": "succeeded", "sub_1.status": "active"},
            {"payment-receipt": 0},
        ),
        Life(
            "marked as paid out of band after being declined thrice",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.failed(4 * DAY, 2),
                m.failed(9 * DAY, 3),
                m.paid(10 * DAY, paid_out_of_band=True, attempts=3),
                m.sub(10 * DAY, "active", previous={"status": "past_due"}),
            ],
            {
                "sub_1.status": "active",
                "in_1.status": "succeeded",
                "in_1.attempt_count": 3,
                "sub_1.payment_attempts": 0,
            },
            {"payment-receipt": 1},
        ),
        Life(
            "written off, then voided: closed once",
            [
                m.failed(DAY, **ALONE),
                m.inv(5 * DAY, "marked_uncollectible", status="uncollectible", **ALONE),
                m.inv(9 * DAY, "voided", status="void", **ALONE),
            ],
            {"in_1.status": "closed"},
            {"payment-receipt": 0},
        ),
        Life(
            "draft deleted leaves nothing; draft that is finalized and paid",
            [
                m.inv(0, "deleted", id_="in_9", status="draft", attempts=0, **ALONE),
                m.paid(DAY, **ALONE),
            ],
            {"in_9.status": "no row", "in_1.status": "succeeded"},
        ),
        Life(
            "failed twice, out of order, with decline reasons of intents",
            [
                m.failed(DAY),
                m.intent(DAY, "payment_failed", failure="One."),
                m.failed(4 * DAY, 2),
                m.intent(4 * DAY, "payment_failed", failure="Two."),
            ],
            {"in_1.failure_reason": "Two.", "in_1.attempt_count": 2, "in_1.first_failed_at": DAY},
        ),
        Life(
            "three decimals, refunded in part",
            [
                m.paid(DAY, price=Price("p", 12340, "kwd"), **ALONE),
                m.part(DAY, amount=12340, currency="kwd"),
                m.charge(2 * DAY, "refunded", amount=12340, currency="kwd", refunded=340),
                m.refund(2 * DAY, "created", amount=340, currency="kwd", charge="ch_1"),
            ],
            {"in_1.refunded_amount": 340, "in_1.currency": "kwd"},
        ),
        Life(
            "renewal fails, voided, and a new invoice of the same period is paid",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.inv(2 * DAY, "voided", status="void"),
                m.sub(2 * DAY, "active", previous={"status": "past_due"}),
                m.paid(3 * DAY, id_="in_2", created=3 * DAY, reason="manual"),
            ],
            {
                "sub_1.status": "active",
                "in_1.status": "closed",
                "in_2.status": "succeeded",
                "org_1.billing_status": "paid",
                "sub_1.payment_failed_at": None,
            },
        ),
        Life(
            "payment_succeeded and paid of one invoice, one second apart",
            [
                m.sub(0, "active", "created"),
                m.paid(30),
                m.inv(31, "payment_succeeded", status="paid", paid_at=NOW + 30),
            ],
            {"in_1.status": "succeeded", "in_1.paid_at": 30},
            {"payment-receipt": 1},
        ),
        Life(
            "two events report one payment",
            [
                m.paid(DAY, amount=2900, **ALONE),
                m.inv(DAY + 60, "payment_succeeded", status="paid", amount=2900, paid_at=NOW + DAY, **ALONE),
            ],
            {"in_1.amount": 2900},
        ),
        Life(
            "paid by a payment record outside Stripe",
            [
                m.paid(DAY, **ALONE),
                m.of(
                    DAY,
                    "invoice_payment.paid",
                    pay.invoice_payment(m.make) | {"payment": {"type": "payment_record", "payment_record": "payrec_1"}},
                ),
            ],
            {"in_1.status": "succeeded"},
            {"payment-receipt": 1},
        ),
        Life(
            "declined thrice with three intents' reasons, paid by a fourth intent",
            [
                m.failed(DAY),
                m.failed(3 * DAY, 2),
                m.failed(6 * DAY, 3),
                *[m.intent((1 + 2 * n) * DAY, "payment_failed", f"pi_{n}", failure=f"R{n}") for n in range(3)],
                m.intent(8 * DAY, "succeeded", "pi_9", charge="ch_9"),
                m.paid(8 * DAY, attempts=4),
            ],
            {
                "in_1.status": "succeeded",
                "in_1.failure_reason": None,
                "ch_9.status": "succeeded",
            },
            {"payment-receipt": 1},
        ),
        Life(
            "invoice with credit note then voided",
            [
                m.failed(DAY, **ALONE),
                m.note(
                    2 * DAY,
                ),
                m.inv(3 * DAY, "voided", status="void", amount=2000, **ALONE),
            ],
            {"in_1.status": "closed", "in_1.amount_remaining": 0},
        ),
        Life(
            "credit note after payment (refund and balance)",
            [
                m.paid(DAY, **ALONE),
                m.part(
                    DAY,
                ),
                m.charge(
                    DAY,
                    "succeeded",
                ),
                m.note(
                    3 * DAY,
                    amount=1200,
                    pre_payment_amount=0,
                    post_payment_amount=1200,
                    type="post_payment",
                    refund="re_1",
                ),
                m.refund(3 * DAY, "created", amount=600),
                m.charge(3 * DAY, "refunded", refunded=600),
            ],
            {"in_1.refunded_amount": 600, "in_1.amount": 2900, "in_1.status": "refunded"},
        ),
        Life(
            "a credit note before the payment, and a refund after it",
            [
                m.failed(DAY, **ALONE),
                m.note(
                    2 * DAY,
                ),
                m.paid(3 * DAY, amount=2000, **ALONE),
                m.part(3 * DAY, amount=2000),
                m.charge(3 * DAY, "succeeded", amount=2000),
                m.charge(4 * DAY, "refunded", amount=2000, refunded=2000),
                m.refund(4 * DAY, "created", amount=2000),
            ],
            {"in_1.amount": 2000, "in_1.refunded_amount": 2000, "in_1.status": "refunded"},
        ),
    ]
