"""Several objects at once: purchases beside subscriptions, a payment and all that follows it, accounts."""

from __future__ import annotations

from typing import Any

from local.stripe.builder import ApiShape
from tests.field.further.kit import ALONE, MANUAL, STARTER, Life, Maker, second
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [*_purchases(m), *_payments(m), *_accounts(shape)]


def _purchases(m: Maker) -> list[Life]:
    guest: dict[str, Any] = {"customer": None}
    return [
        Life(
            "a subscriber also buys once, and the purchase is refunded in part",
            [
                m.sub(0, "active", "created"),
                m.paid(0, reason="subscription_create"),
                m.session(DAY, "completed", "paid", payment_intent="pi_9", amount=5000),
                m.charge(DAY, "succeeded", "ch_9", payment_intent="pi_9", invoice=None, amount=5000),
                m.charge(2 * DAY, "refunded", "ch_9", payment_intent="pi_9", invoice=None, amount=5000, refunded=1500),
                m.refund(2 * DAY, "created", "re_9", charge="ch_9", payment_intent="pi_9", amount=1500),
            ],
            {
                "sub_1.status": "active",
                "in_1.status": "succeeded",
                "in_1.refunded_amount": 0,
                "cs_1.status": "refunded",
                "cs_1.amount": 5000,
                "cs_1.refunded_amount": 1500,
                "org_1.billing_status": "paid",
            },
            {"payment-receipt": 2},
        ),
        Life(
            "a guest buys twice: one is captured and disputed, one is canceled",
            [
                m.session(0, "completed", "unpaid", payment_intent="pi_1", **guest),
                m.session(0, "completed", "unpaid", "cs_2", payment_intent="pi_2", **guest),
                m.intent(DAY, "succeeded", charge="ch_1", receipt_email="jane@example.com", **guest, **MANUAL),
                m.charge(DAY, "succeeded", invoice=None, **guest),
                m.intent(2 * DAY, "canceled", "pi_2", status="canceled", **guest, **MANUAL),
                m.dispute(3 * DAY, "created", 3 * DAY, due=12 * DAY),
            ],
            {
                "cs_1.status": "succeeded",
                "cs_1.on_hold": True,
                "cs_2.status": "closed",
                "cs_2.on_hold": False,
                "dp_1.status": "needs_response",
            },
            {"payment-receipt": 1},
        ),
        Life(
            "a purchase with an invoice is paid, credited in part to the balance and refunded in part",
            [
                m.session(0, "completed", "paid", payment_intent="pi_1", invoice="in_1"),
                m.paid(0, **ALONE),
                m.part(0),
                m.note(DAY, pre_payment_amount=0, post_payment_amount=900, type="post_payment"),
                m.charge(DAY, "refunded", refunded=400, invoice=None),
                m.refund(DAY, "created", amount=400),
            ],
            {"in_1.status": "refunded", "in_1.amount": 2900, "in_1.refunded_amount": 400, "cs_1.refunded_amount": 400},
            {"payment-receipt": 1},
        ),
        Life(
            "a delayed payment of a subscription's checkout fails while another subscription runs",
            [
                m.sub(0, "active", "created"),
                m.paid(0),
                m.session(
                    DAY, "completed", "unpaid", "cs_2", mode="subscription", subscription="sub_2", invoice="in_2",
                ),
                second(m, DAY, "incomplete", "created"),
                m.session(
                    4 * DAY, "async_payment_failed", "unpaid", "cs_2", mode="subscription", subscription="sub_2",
                    invoice="in_2",
                ),
                m.failed(4 * DAY, 1, None, id_="in_2", subscription="sub_2", created=DAY, reason="subscription_create"),
                second(
                    m, 5 * DAY, "incomplete_expired", previous={"status": "incomplete"}, ended_at=NOW + 5 * DAY,
                ),
            ],
            {
                "sub_1.status": "active",
                "sub_2.status": "incomplete_expired",
                "in_2.status": "failed",
                "org_1.plan": "pro",
                "org_1.has_access": True,
                "org_1.billing_status": "paid",
            },
            {"subscription-canceled": 0},
        ),
        Life(
            "a session expires, the second one is paid by bank debit, which is then returned",
            [
                m.session(0, "expired", "unpaid", status="expired", payment_intent=None),
                m.session(DAY, "completed", "unpaid", "cs_2", payment_intent="pi_2"),
                m.session(5 * DAY, "async_payment_succeeded", "paid", "cs_2", payment_intent="pi_2"),
                m.charge(5 * DAY, "succeeded", "ch_2", payment_intent="pi_2", invoice=None),
                m.dispute(
                    20 * DAY, "created", 20 * DAY, charge="ch_2", payment_intent="pi_2", status="lost",
                ),
                m.dispute(
                    20 * DAY, "closed", 20 * DAY, charge="ch_2", payment_intent="pi_2", status="lost",
                ),
            ],
            {"cs_2.status": "lost", "cs_2.on_hold": False, "dp_1.status": "lost"},
            {"payment-receipt": 1},
        ),
    ]  # fmt: skip


def _payments(m: Maker) -> list[Life]:
    paid = [m.sub(0, "active", "created"), m.paid(0), m.part(0)]
    return [
        Life(
            "refunded in part, the rest is disputed and won",
            [
                *paid,
                m.charge(DAY, "refunded", refunded=900),
                m.refund(DAY, "created", amount=900),
                m.dispute(5 * DAY, "created", 5 * DAY, due=12 * DAY, amount=2000),
                m.dispute(5 * DAY, "funds_withdrawn", 5 * DAY, due=12 * DAY, amount=2000),
                m.dispute(20 * DAY, "closed", 5 * DAY, status="won", amount=2000),
                m.dispute(20 * DAY, "funds_reinstated", 5 * DAY, status="won", amount=2000),
            ],
            {
                "in_1.status": "refunded",
                "in_1.refunded_amount": 900,
                "in_1.on_hold": False,
                "dp_1.status": "won",
                "sub_1.status": "active",
            },
        ),
        Life(
            "a refund is pending, the payment is disputed, and the refund fails",
            [
                *paid,
                m.charge(DAY, "refunded", refunded=2900),
                m.refund(DAY, "created", status="pending"),
                m.dispute(3 * DAY, "created", 3 * DAY, due=12 * DAY),
                m.refund(5 * DAY, "failed", status="failed"),
            ],
            {
                "in_1.status": "succeeded",
                "in_1.refunded_amount": 0,
                "in_1.on_hold": True,
                "dp_1.status": "needs_response",
            },
        ),
        Life(
            "a refund fails, another one is made, and the first one's failure is reported again",
            [
                *paid,
                m.charge(DAY, "refunded", refunded=2900),
                m.refund(DAY, "created", status="pending"),
                m.refund(3 * DAY, "failed", status="failed"),
                m.charge(4 * DAY, "refunded", refunded=1000),
                m.refund(4 * DAY, "created", "re_2", amount=1000),
                m.refund(6 * DAY, "updated", status="failed"),
            ],
            {"in_1.status": "refunded", "in_1.refunded_amount": 1000},
        ),
        Life(
            "a credit note of everything to the balance refunds nothing",
            [*paid, m.note(DAY, pre_payment_amount=0, post_payment_amount=2900, amount=2900, type="post_payment")],
            {"in_1.status": "succeeded", "in_1.refunded_amount": 0, "in_1.amount": 2900, "sub_1.status": "active"},
        ),
        Life(
            "declined, paid out of band, and the declined intent succeeds nowhere",
            [
                m.sub(0, "active", "created"),
                m.failed(DAY),
                m.intent(DAY, "payment_failed", failure="Your card was declined."),
                m.sub(DAY, "past_due", previous={"status": "active"}),
                m.paid(2 * DAY, paid_out_of_band=True),
                m.intent(2 * DAY, "canceled", status="canceled"),
                m.sub(2 * DAY, "active", previous={"status": "past_due"}),
            ],
            {
                "in_1.status": "succeeded",
                "in_1.failure_reason": None,
                "in_1.amount_remaining": 0,
                "sub_1.status": "active",
                "org_1.access_until": None,
            },
            {"payment-receipt": 1},
        ),
        Life(
            "written off, a credit note of the rest, then voided: nothing is owed",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.inv(9 * DAY, "marked_uncollectible", status="uncollectible"),
                m.sub(9 * DAY, "active", previous={"status": "past_due"}),
                m.note(10 * DAY),
                m.inv(11 * DAY, "voided", status="void"),
            ],
            {
                "in_1.status": "closed",
                "in_1.amount_remaining": 0,
                "sub_1.status": "active",
                "sub_1.failed_invoice": None,
            },
        ),
        Life(
            "two parts of one invoice: one is refunded, the other one disputed, won and refunded",
            [
                m.sub(0, "active", "created"),
                m.part(0, 1, amount=1900),
                m.part(0, 2, amount=1000),
                m.paid(0),
                m.charge(0, "succeeded", "ch_1", payment_intent="pi_1", invoice=None, amount=1900),
                m.charge(0, "succeeded", "ch_2", payment_intent="pi_2", invoice=None, amount=1000),
                m.charge(DAY, "refunded", "ch_1", payment_intent="pi_1", invoice=None, amount=1900, refunded=1900),
                m.dispute(2 * DAY, "created", 2 * DAY, charge="ch_2", payment_intent="pi_2", due=12 * DAY),
                m.dispute(9 * DAY, "closed", 2 * DAY, charge="ch_2", payment_intent="pi_2", status="won"),
                m.charge(10 * DAY, "refunded", "ch_2", payment_intent="pi_2", invoice=None, amount=1000, refunded=300),
            ],
            {"in_1.status": "refunded", "in_1.amount": 2900, "in_1.refunded_amount": 2200, "in_1.on_hold": False},
        ),
        Life(
            "refunded after the end, and the customer is deleted",
            [
                *paid,
                m.ended(3 * DAY, "cancellation_requested"),
                m.charge(3 * DAY, "refunded", refunded=1450),
                m.refund(3 * DAY, "created", amount=1450),
                m.customer(4 * DAY, "deleted"),
            ],
            {
                "in_1.status": "refunded",
                "in_1.refunded_amount": 1450,
                "sub_1.status": "canceled",
                "org_1.has_access": False,
                "cus_1.deleted_at": 4 * DAY,
            },
            fires=None,
        ),
        Life(
            "ended by a dispute: the payment is lost, the next invoice is voided",
            [
                *paid,
                m.dispute(30 * DAY, "created", 30 * DAY, due=40 * DAY),
                m.renewed(30 * DAY, "past_due", {"status": "active", "latest_invoice": "in_1"}),
                m.failed(30 * DAY, id_="in_2", created=30 * DAY),
                m.sub(
                    31 * DAY, "canceled", "deleted", ended_at=NOW + 31 * DAY, canceled_at=NOW + 31 * DAY,
                    latest_invoice="in_2", start=NOW + 30 * DAY, created=NOW,
                    cancellation_details={"reason": "payment_disputed", "comment": None, "feedback": None},
                ),
                m.inv(31 * DAY, "voided", "in_2", created=30 * DAY, status="void"),
                m.dispute(45 * DAY, "closed", 30 * DAY, status="lost"),
            ],
            {
                "in_1.status": "lost",
                "in_2.status": "closed",
                "sub_1.status": "canceled",
                "org_1.has_access": False,
                "dp_1.status": "lost",
            },
            {"subscription-canceled": 1, "churn-survey": 0},
        ),
        Life(
            "an invoice by hand is paid in part, disputed, and written off",
            [
                m.inv(0, "finalized", amount=2900, collection_method="send_invoice", due_date=NOW + 9 * DAY, **ALONE),
                m.part(2 * DAY, 1, amount=1000),
                m.charge(2 * DAY, "succeeded", invoice=None, amount=1000),
                m.inv(
                    2 * DAY, "updated", amount_remaining=1900, amount_paid=1000,
                    previous={"amount_remaining": 2900, "amount_paid": 0},
                    collection_method="send_invoice", due_date=NOW + 9 * DAY, **ALONE,
                ),
                m.dispute(5 * DAY, "created", 5 * DAY, due=12 * DAY, amount=1000),
                m.dispute(15 * DAY, "closed", 5 * DAY, status="won", amount=1000),
                m.inv(
                    20 * DAY, "marked_uncollectible", status="uncollectible", amount_remaining=1900, amount_paid=1000,
                    **ALONE,
                ),
            ],
            {"in_1.status": "closed", "in_1.on_hold": False, "dp_1.status": "won"},
        ),
        Life(
            "two refunds of one payment within a second, and one of two disputes is withdrawn",
            [
                *paid,
                m.refund(DAY, "created", "re_1", amount=500),
                m.refund(DAY, "created", "re_2", amount=700),
                m.charge(DAY, "refunded", refunded=500),
                m.charge(DAY, "refunded", refunded=1200),
                m.dispute(
                    2 * DAY, "created", 2 * DAY, "dp_1", status="warning_needs_response", due=12 * DAY, amount=800,
                ),
                m.dispute(3 * DAY, "created", 3 * DAY, "dp_2", due=12 * DAY, amount=900),
                m.dispute(9 * DAY, "closed", 2 * DAY, "dp_1", status="warning_closed", amount=800),
            ],
            {
                "in_1.refunded_amount": 1200,
                "in_1.status": "refunded",
                "in_1.on_hold": True,
                "dp_1.status": "warning_closed",
                "dp_2.status": "needs_response",
            },
        ),
    ]  # fmt: skip


def _accounts(shape: ApiShape) -> list[Life]:
    m, a = Maker(shape), Maker(shape, "acct_a")
    return [
        Life(
            "a destination charge is disputed on the platform, and the copy on the account knows nothing of it",
            [
                m.session(0, "completed", "paid", payment_intent="pi_1"),
                m.charge(0, "succeeded", invoice=None),
                a.charge(
                    0, "succeeded", "py_1", payment_intent=None, invoice=None, source_transfer="tr_1", customer=None,
                ),
                m.dispute(3 * DAY, "created", 3 * DAY, due=12 * DAY),
                m.dispute(9 * DAY, "closed", 3 * DAY, status="lost"),
            ],
            {"cs_1.status": "lost", "acct_a/py_1.status": "no row", "dp_1.status": "lost"},
            {"payment-receipt": 1},
        ),
        Life(
            "an account's customer has the platform's ids, ends and is deleted there alone",
            [
                m.sub(0, "active", "created"),
                m.paid(0),
                a.sub(0, "active", "created", price=STARTER),
                a.failed(DAY, price=STARTER),
                a.sub(DAY, "past_due", previous={"status": "active"}, price=STARTER),
                a.ended(9 * DAY, "payment_failed", price=STARTER),
                a.customer(10 * DAY, "deleted"),
            ],
            {
                "sub_1.status": "active",
                "in_1.status": "succeeded",
                "cus_1.deleted_at": None,
                "org_1.has_access": True,
                "org_1.plan": "pro",
                "acct_a/sub_1.status": "canceled",
                "acct_a/in_1.status": "failed",
                "acct_a/cus_1.deleted_at": 10 * DAY,
            },
            fires=None,
        ),
        Life(
            "an account's payment and the platform's have the same ids, each is refunded by its own amount",
            [
                m.paid(0, **ALONE),
                m.part(0),
                a.paid(0, **ALONE),
                a.part(0),
                m.charge(DAY, "refunded", refunded=100, invoice=None),
                m.refund(DAY, "created", amount=100),
                a.charge(DAY, "refunded", refunded=2900, invoice=None),
                a.refund(DAY, "created", amount=2900),
                a.refund(4 * DAY, "failed", amount=2900, status="failed"),
            ],
            {
                "in_1.refunded_amount": 100,
                "in_1.status": "refunded",
                "acct_a/in_1.refunded_amount": 0,
                "acct_a/in_1.status": "succeeded",
            },
        ),
    ]  # fmt: skip
