"""Further billing lives of the kinds in cases/, made with the builders: what Stripe sends, and the right result.

Each is played in many orders, with repeats, by the rules (tests/unit/test_field_lives.py) and by the store
(tests/contract/streams/test_field_lives.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from local.stripe import payments as pay
from local.stripe.builder import ApiShape, Json, Price, StripeEvents
from schemas.known import Known
from tests.kits.rulekit import DAY, NOW

MAKE = StripeEvents(ApiShape.NEW)
FREE = Price("price_free", 0, "eur")
STARTER = Price("price_starter_monthly", 900, "eur")
PRO = Price("price_pro_monthly", 2900, "eur")


@dataclass(frozen=True, slots=True)
class FieldLife:
    """`expected` are values by `row.column`; `mails` the number of mails by template, of those that it names."""

    name: str
    events: Sequence[Json]
    expected: Mapping[str, Any]
    mails: Mapping[str, int] = field(default_factory=dict)


def sub(day: int, status: str, kind: str = "updated", previous: Json | None = None, **more: Any) -> Json:
    id_ = more.pop("id_", "sub_1")
    made = MAKE.subscription(id_, status=status, **{"start": NOW, "price": PRO, "latest_invoice": "in_1", **more})
    event = f"customer.subscription.{kind}"
    return MAKE.event(event, made, NOW + day * DAY, previous=previous, id_=f"evt_{id_}_{kind}_{status}_{day}")


def inv(day: int, kind: str, **more: Any) -> Json:
    id_ = more.pop("id_", "in_1")
    made = MAKE.invoice(id_, **{"price": PRO, "created": NOW + 60, **more})
    return MAKE.event(f"invoice.{kind}", made, NOW + day * DAY + 60, id_=f"evt_{id_}_{kind}_{day}")


def paid(day: int, **more: Any) -> Json:
    return inv(day, "paid", status="paid", paid_at=NOW + day * DAY + 60, **more)


def failed(day: int, attempts: int = 1, retry: int | None = 3, **more: Any) -> Json:
    next_attempt = None if retry is None else NOW + (day + retry) * DAY
    return inv(day, "payment_failed", attempts=attempts, next_attempt=next_attempt, **more)


def of(kind: str, day: int, made: Json, **more: Any) -> Json:
    return MAKE.event(kind, made, NOW + day * DAY + 120, id_=f"evt_{made['id']}_{kind}_{day}", **more)


def item(price: Price, usage: str) -> Json:
    made: Json = MAKE.subscription(price=price, start=NOW)["items"]["data"][0]
    made["id"] = f"si_{price.id}"
    made["price"]["recurring"]["usage_type"] = usage
    return made


def items(*found: Json) -> Json:
    return {"object": "list", "data": list(found), "has_more": False, "url": "/v1/subscription_items"}


BEGUN = sub(0, "active", "created")
ACTIVE = {"subscription.status": "active", "organization.status": "active", "organization.plan": "pro"}
USER: dict[str, Any] = {"metadata": {"userId": "user_1"}}
CHARGE = of("charge.succeeded", 1, pay.charge(MAKE, "ch_1", invoice="in_1"))
PART = pay.invoice_payment(MAKE, "inpay_1", invoice="in_1", payment_intent="pi_1")


def lives() -> list[FieldLife]:
    return [
        FieldLife(
            "a trial that ends without a card is canceled",
            [
                sub(0, "trialing", "created", trial_end=NOW + 14 * DAY),
                paid(0, amount=0, reason="subscription_create"),
                sub(14, "canceled", "deleted", trial_end=NOW + 14 * DAY, ended_at=NOW + 14 * DAY),
            ],
            {"subscription.status": "canceled", "organization.plan": "free", "organization.has_access": False},
            {"payment-receipt": 0, "subscription-canceled": 1, "payment-failed": 0},
        ),
        FieldLife(
            "a trial that ends without a card is paused, and resumed with one",
            [
                sub(0, "trialing", "created", trial_end=NOW + 14 * DAY),
                sub(14, "paused", previous={"status": "trialing"}, trial_end=NOW + 14 * DAY),
                sub(20, "active", previous={"status": "paused"}, latest_invoice="in_2"),
                paid(20, id_="in_2"),
            ],
            {**ACTIVE, "organization.has_access": True},
            {"payment-receipt": 1, "subscription-welcome": 1},
        ),
        FieldLife(
            "a paused trial has no access",
            [
                sub(0, "trialing", "created", trial_end=NOW + 14 * DAY),
                sub(14, "paused", previous={"status": "trialing"}, trial_end=NOW + 14 * DAY),
            ],
            {"subscription.status": "paused", "organization.status": "paused", "organization.has_access": False},
            {"subscription-canceled": 0},
        ),
        FieldLife(
            "an invoice is written off, and paid after all",
            [
                BEGUN,
                failed(1),
                sub(1, "past_due", previous={"status": "active"}),
                inv(9, "marked_uncollectible", status="uncollectible"),
                sub(9, "active", previous={"status": "past_due"}),
                paid(30),
            ],
            {**ACTIVE, "payment.status": "succeeded", "payment.amount_remaining": 0},
            {"payment-receipt": 1},
        ),
        FieldLife(
            "the first try expires, the second subscription is paid",
            [
                sub(0, "incomplete", "created"),
                failed(0, retry=None, reason="subscription_create"),
                sub(1, "incomplete_expired", previous={"status": "incomplete"}),
                inv(1, "voided", status="void", reason="subscription_create"),
                sub(2, "active", "created", id_="sub_2", start=NOW + 2 * DAY, latest_invoice="in_2"),
                paid(2, id_="in_2", subscription="sub_2", reason="subscription_create"),
            ],
            {
                "subscription.status": "incomplete_expired",
                "organization.status": "active",
                "organization.plan": "pro",
                "payment.status": "closed",
            },
            {"subscription-welcome": 1, "subscription-canceled": 0, "payment-final": 0, "payment-receipt": 1},
        ),
        FieldLife(
            "of two subscriptions the larger one ends",
            [
                sub(0, "active", "created", price=STARTER),
                sub(1, "active", "created", id_="sub_2", start=NOW + DAY, latest_invoice="in_2"),
                sub(40, "canceled", "deleted", id_="sub_2", start=NOW + DAY, ended_at=NOW + 40 * DAY),
            ],
            {"organization.plan": "starter", "organization.status": "active", "organization.has_access": True},
            {"subscription-canceled": 1},
        ),
        FieldLife(
            "a yen invoice is paid in part and declined for the rest",
            [
                sub(0, "active", "created", price=Price("price_pro_monthly", 5000, "jpy")),
                failed(1, price=Price("price_pro_monthly", 5000, "jpy"), amount_paid=2000, amount_remaining=3000),
            ],
            {"payment.currency": "jpy", "payment.amount_remaining": 3000, "payment.status": "failed"},
            {"payment-failed": 1},
        ),
        FieldLife(
            "dinars are refunded in part",
            [
                paid(1, subscription=None, reason="manual", price=Price("price_x", 12340, "kwd")),
                of("invoice_payment.paid", 1, PART | {"amount_paid": 12340, "currency": "kwd"}),
                of(
                    "charge.refunded",
                    2,
                    pay.charge(MAKE, "ch_1", invoice=None, amount=12340, refunded=1230, currency="kwd"),
                ),
            ],
            {"payment.currency": "kwd", "payment.refunded_amount": 1230, "payment.status": "refunded"},
            {"payment-receipt": 1},
        ),
        FieldLife(
            "a lost dispute is won after all",
            [
                paid(1, subscription=None, reason="manual"),
                of("invoice_payment.paid", 1, PART),
                CHARGE,
                of("charge.dispute.created", 3, pay.dispute(MAKE, created=NOW + 3 * DAY)),
                of("charge.dispute.closed", 9, pay.dispute(MAKE, status="lost", created=NOW + 3 * DAY)),
                of("charge.dispute.closed", 12, pay.dispute(MAKE, status="won", created=NOW + 3 * DAY)),
            ],
            {"payment.status": "succeeded", "payment.on_hold": False},
        ),
        FieldLife(
            "an invoice of a deleted customer is paid",
            [
                BEGUN,
                sub(5, "canceled", "deleted", ended_at=NOW + 5 * DAY),
                of("customer.deleted", 5, {"id": "cus_1", "object": "customer", "deleted": True}),
                paid(9),
            ],
            {"subscription.status": "canceled", "organization.plan": "free", "payment.status": "succeeded"},
            {"win-back": 0},
        ),
        FieldLife(
            "a discount of 100 %",
            [BEGUN, paid(0, amount=0, reason="subscription_create")],
            {**ACTIVE, "payment.amount": 0, "payment.status": "succeeded"},
            {"payment-receipt": 0, "subscription-welcome": 1},
        ),
        FieldLife(
            "one refund fails, another is canceled",
            [
                paid(1, subscription=None, reason="manual"),
                of("invoice_payment.paid", 1, PART),
                CHARGE,
                of("refund.created", 2, pay.refund(MAKE, "re_1", amount=500, status="pending")),
                of("refund.failed", 5, pay.refund(MAKE, "re_1", amount=500, status="failed")),
                of("refund.created", 6, pay.refund(MAKE, "re_2", amount=700, status="pending")),
                of("refund.updated", 7, pay.refund(MAKE, "re_2", amount=700, status="canceled")),
            ],
            {"payment.status": "succeeded", "payment.refunded_amount": 0},
        ),
        FieldLife(
            "a declined invoice is marked as paid elsewhere",
            [
                BEGUN,
                failed(1),
                sub(1, "past_due", previous={"status": "active"}),
                paid(4, paid_out_of_band=True),
                sub(4, "active", previous={"status": "past_due"}),
            ],
            {**ACTIVE, "subscription.payment_failed_at": None, "organization.billing_status": "paid"},
            {"payment-receipt": 1},
        ),
        FieldLife(
            "a declined invoice is voided",
            [
                BEGUN,
                failed(1),
                sub(1, "past_due", previous={"status": "active"}),
                inv(4, "voided", status="void"),
                sub(4, "active", previous={"status": "past_due"}),
            ],
            {**ACTIVE, "subscription.payment_failed_at": None, "payment.status": "closed"},
            {"payment-receipt": 0, "payment-final": 0},
        ),
        FieldLife(
            "the metered item comes first, and its price is in no plan",
            [
                sub(
                    0,
                    "active",
                    "created",
                    items=items(item(Price("price_usage", 1, "eur"), "metered"), item(PRO, "licensed")),
                )
            ],
            ACTIVE,
            {"subscription-welcome": 1},
        ),
        FieldLife(
            "the free plan, then a paid one",
            [
                sub(0, "active", "created", price=FREE),
                sub(9, "active", previous=MAKE.price_change(FREE)),
                paid(9, reason="subscription_update"),
            ],
            ACTIVE,
            {"plan-changed": 1, "payment-receipt": 1, "subscription-welcome": 1},
        ),
        FieldLife(
            "a schedule changes the price, and releases the subscription",
            [
                sub(0, "active", "created", schedule="sub_sched_1"),
                sub(31, "active", previous=MAKE.price_change(PRO), price=STARTER, schedule="sub_sched_1"),
                sub(40, "active", previous={"schedule": "sub_sched_1"}, price=STARTER, latest_invoice="in_1"),
            ],
            {"subscription.plan": "starter", "organization.plan": "starter"},
            {"plan-changed": 1},
        ),
        FieldLife(
            "unpaid, then the latest invoice is paid",
            [
                BEGUN,
                failed(1),
                sub(1, "past_due", previous={"status": "active"}),
                failed(15, 4, None),
                sub(15, "unpaid", previous={"status": "past_due"}),
                paid(20),
                sub(20, "active", previous={"status": "unpaid"}),
            ],
            {**ACTIVE, "organization.has_access": True, "payment.status": "succeeded"},
            {"payment-receipt": 1},
        ),
        FieldLife(
            "a paused collection makes drafts only",
            [
                BEGUN,
                sub(3, "active", previous={"pause_collection": None}, pause_collection={"behavior": "keep_as_draft"}),
                inv(31, "created", id_="in_2", status="draft", attempts=0),
            ],
            {**ACTIVE, "organization.next_billing_at": None},
            {"payment-receipt": 0, "payment-failed": 0},
        ),
        FieldLife(
            "a credit note settles the declined invoice",
            [
                BEGUN,
                failed(1),
                sub(1, "past_due", previous={"status": "active"}),
                of("credit_note.created", 3, pay.credit_note(MAKE, amount=2900, created=NOW + 3 * DAY)),
                paid(3, amount=0),
                sub(3, "active", previous={"status": "past_due"}),
            ],
            {**ACTIVE, "payment.status": "succeeded", "payment.amount": 0, "organization.billing_status": "paid"},
            {"payment-receipt": 0},
        ),
        FieldLife(
            "a person moves to a new customer, and the old subscription ends afterwards",
            [
                of("customer.created", 0, MAKE.customer("cus_1", **USER)),
                sub(0, "active", "created", **USER),
                of("customer.created", 9, MAKE.customer("cus_2", email=None, **USER)),
                sub(9, "active", "created", id_="sub_2", customer="cus_2", start=NOW + 9 * DAY, **USER),
                sub(10, "canceled", "deleted", ended_at=NOW + 10 * DAY, **USER),
            ],
            {"subscription.status": "canceled", "user.email": "jane@example.com", "customer.erased_at": None},
            {"win-back": 0, "subscription-canceled": 1},
        ),
        FieldLife(
            "the bank asks, and the customer confirms",
            [
                BEGUN,
                inv(31, "payment_action_required", id_="in_2", created=NOW + 31 * DAY),
                paid(32, id_="in_2", created=NOW + 31 * DAY),
            ],
            ACTIVE,
            {"payment-receipt": 1, "payment-failed": 0},
        ),
    ]


def seen(known: Known, life: FieldLife) -> dict[str, Any]:
    """What is stored of the expected values."""
    rows = {
        "subscription": known.subscription("", "sub_1"),
        "organization": known.organization("", "cus_1"),
        "payment": known.payment("", "in_1"),
        "customer": known.customer("", "cus_1"),
        "user": known.user("", "user_1"),
    }
    return {name: getattr(rows[name.partition(".")[0]], name.partition(".")[2], "no row") for name in life.expected}
