"""Declined, then settled in one of Stripe's ways: paid late, in parts, by credit, voided, written off (C1, C2, C15)."""

from __future__ import annotations

from typing import Any

from local.stripe.builder import ApiShape
from tests.field.further.kit import ALONE, HOUR, STARTER, Life, Maker
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    active_again = m.sub(DAY, "active", previous={"status": "past_due"})
    by_hand: dict[str, Any] = {"collection_method": "send_invoice", "due_date": NOW + 10 * DAY}
    sent: dict[str, Any] = {"collection_method": "send_invoice", "days_until_due": 10}
    third: dict[str, Any] = {"start": NOW + 60 * DAY, "created": NOW, "latest_invoice": "in_3"}
    return [
        Life(
            "declined and paid within one second",
            [m.sub(0, "active", "created"), *m.declined(DAY), m.paid(DAY), active_again],
            {
                "sub_1.status": "active",
                "sub_1.failed_invoice": None,
                "sub_1.payment_attempts": 0,
                "in_1.status": "succeeded",
                "org_1.access_until": None,
            },
        ),
        Life(
            "declined and voided within one second",
            [
                *[m.sub(0, "active", "created"), *m.declined(DAY)],
                m.inv(DAY, "voided", status="void"),
                active_again,
            ],
            {"sub_1.status": "active", "in_1.status": "closed", "sub_1.failed_invoice": None},
        ),
        Life(
            "declined and written off within one second",
            [
                *[m.sub(0, "active", "created"), *m.declined(DAY)],
                m.inv(DAY, "marked_uncollectible", status="uncollectible"),
                active_again,
            ],
            {"sub_1.status": "active", "org_1.has_access": True, "org_1.access_until": None},
        ),
        *(
            Life(
                f"{status} and active within one second, and the invoice's event has the next one: {kind}",
                [
                    *[m.sub(0, "active", "created"), m.failed(DAY)],
                    m.sub(DAY, status, previous={"status": "active"}),
                    m.sub(DAY, "active", previous={"status": status}),
                    m.inv(DAY + 1, kind, status=settled),
                ],
                {"sub_1.status": "active", "org_1.has_access": True, "org_1.access_until": None},
            )
            for status in ("past_due", "unpaid")
            for kind, settled in (("paid", "paid"), ("voided", "void"), ("marked_uncollectible", "uncollectible"))
        ),
        *(
            Life(
                f"{status} and paid within one second, and the update to active is lost",
                [
                    *[m.sub(0, "active", "created"), m.failed(DAY)],
                    m.sub(DAY, status, previous={"status": "active"}),
                    m.paid(DAY),
                ],
                {"sub_1.status": "active", "org_1.has_access": True, "org_1.access_until": None},
            )
            for status in ("past_due", "unpaid")
        ),
        Life(
            "incomplete with another card and paid within one second, and the update to active is lost",
            [
                m.sub(0, "incomplete", "created"),
                m.sub(HOUR, "incomplete", previous={"default_payment_method": None}, default_payment_method="pm_1"),
                m.paid(HOUR, reason="subscription_create"),
            ],
            {"sub_1.status": "active", "org_1.has_access": True},
        ),
        Life(
            "renewed and declined in the second in which the invoice before was paid",
            [
                *[m.sub(0, "active", "created"), *m.declined(DAY), m.paid(30 * DAY)],
                m.renewed(30 * DAY, "past_due", {"latest_invoice": "in_1"}),
                m.failed(30 * DAY, id_="in_2", created=30 * DAY),
            ],
            {"sub_1.status": "past_due", "sub_1.failed_invoice": "in_2"},
        ),
        Life(
            "two updates of one second while past due, then the new invoice is settled and its event is lost",
            [
                *[m.sub(0, "active", "created"), *m.declined(DAY)],
                m.renewed(30 * DAY, "past_due", {"metadata": {"a": None}}, latest_invoice="in_1", metadata={"a": "b"}),
                m.renewed(30 * DAY, "past_due", {"latest_invoice": "in_1"}, metadata={"a": "b"}),
                m.failed(30 * DAY + HOUR, id_="in_2", created=30 * DAY),
                m.renewed(33 * DAY, "active", {"status": "past_due"}, metadata={"a": "b"}),
            ],
            {"sub_1.status": "active", "sub_1.failed_invoice": "in_1"},
        ),
        Life(
            "unpaid, and the newest draft is finalized and paid",
            [
                *[m.sub(0, "active", "created"), m.paid(0, reason="subscription_create")],
                m.renewed(30 * DAY, "active", {"latest_invoice": "in_1"}),
                m.failed(30 * DAY + HOUR, id_="in_2", created=30 * DAY),
                m.renewed(30 * DAY + HOUR, "past_due", {"status": "active"}),
                m.failed(40 * DAY, 4, None, id_="in_2", created=30 * DAY),
                m.renewed(40 * DAY, "unpaid", {"status": "past_due"}),
                m.sub(60 * DAY, "unpaid", previous={"latest_invoice": "in_2"}, **third),
                m.paid(70 * DAY, "in_3", created=60 * DAY),
                m.sub(70 * DAY, "active", previous={"status": "unpaid"}, **third),
            ],
            {
                "sub_1.status": "active",
                "org_1.has_access": True,
                "org_1.next_billing_at": 90 * DAY,
                "in_2.status": "failed",
                "in_3.status": "succeeded",
            },
            {"payment-receipt": 2, "payment-final": 1},
        ),
        Life(
            "unpaid, and voided: active with nothing owed",
            [
                *[m.sub(0, "active", "created"), *m.declined(DAY), m.failed(20 * DAY, 4, None)],
                m.sub(20 * DAY, "unpaid", previous={"status": "past_due"}),
                m.inv(25 * DAY, "voided", status="void"),
                m.sub(25 * DAY, "active", previous={"status": "unpaid"}),
            ],
            {"sub_1.status": "active", "org_1.has_access": True, "org_1.billing_status": None, "in_1.status": "closed"},
        ),
        Life(
            "written off while the next period is paid, then paid after all",
            [
                *[m.sub(0, "active", "created"), *m.declined(DAY), m.failed(20 * DAY, 4, None)],
                m.inv(21 * DAY, "marked_uncollectible", status="uncollectible"),
                m.sub(21 * DAY, "active", previous={"status": "past_due"}),
                m.renewed(30 * DAY, "active", {"latest_invoice": "in_1"}),
                m.paid(30 * DAY + HOUR, "in_2", created=30 * DAY),
                m.paid(50 * DAY),
            ],
            {"sub_1.status": "active", "in_1.status": "succeeded", "in_1.lost_at": None, "in_2.status": "succeeded"},
            {"payment-receipt": 2},
        ),
        Life(
            "written off, tried once more, voided",
            [
                m.failed(DAY, 4, None, **ALONE),
                m.inv(2 * DAY, "marked_uncollectible", status="uncollectible", **ALONE),
                m.failed(3 * DAY, 5, None, status="uncollectible", **ALONE),
                m.inv(4 * DAY, "voided", status="void", **ALONE),
            ],
            {"in_1.status": "closed", "in_1.amount_remaining": 0},
            {"payment-reminder": 0},
        ),
        Life(
            "a credit note of the whole invoice: Stripe calls it paid",
            [
                *[m.sub(0, "active", "created"), *m.declined(DAY)],
                m.note(2 * DAY, amount=2900, pre_payment_amount=2900),
                m.paid(2 * DAY, amount=0),
                m.sub(2 * DAY, "active", previous={"status": "past_due"}),
            ],
            {"sub_1.status": "active", "sub_1.failed_invoice": None, "in_1.status": "succeeded", "in_1.amount": 0},
            {"payment-receipt": 0, "payment-reminder": 0},
            fires=(),
        ),
        Life(
            "an invoice by hand is overdue and paid in three parts",
            [
                m.sub(0, "active", "created", **sent),
                m.part(5 * DAY, 1, amount=1000),
                m.inv(
                    *(5 * DAY, "updated"),
                    amount_paid=1000,
                    amount_remaining=1900,
                    previous={"amount_paid": 0, "amount_remaining": 2900},
                    **by_hand,
                ),
                m.inv(10 * DAY, "overdue", amount_paid=1000, amount_remaining=1900, **by_hand),
                m.sub(10 * DAY, "past_due", previous={"status": "active"}, **sent),
                m.part(12 * DAY, 2, amount=900),
                m.inv(
                    *(12 * DAY, "updated"),
                    amount_paid=1900,
                    amount_remaining=1000,
                    previous={"amount_paid": 1000, "amount_remaining": 1900},
                    **by_hand,
                ),
                m.part(15 * DAY, 3, amount=1000),
                m.paid(15 * DAY, **by_hand),
                m.sub(15 * DAY, "active", previous={"status": "past_due"}, **sent),
            ],
            {"sub_1.status": "active", "in_1.status": "succeeded", "in_1.amount": 2900, "in_1.amount_remaining": 0},
            {"invoice-overdue": 1, "payment-receipt": 1, "payment-failed": 0},
        ),
        Life(
            "an invoice by hand is paid in part, and the rest is written off",
            [
                m.sub(0, "active", "created", **sent),
                m.part(5 * DAY, 1, amount=1000),
                m.sub(10 * DAY, "past_due", previous={"status": "active"}, **sent),
                m.inv(
                    *(20 * DAY, "marked_uncollectible"),
                    status="uncollectible",
                    amount_paid=1000,
                    amount_remaining=1900,
                    **by_hand,
                ),
                m.sub(20 * DAY, "active", previous={"status": "past_due"}, **sent),
            ],
            {"sub_1.status": "active", "in_1.status": "closed", "in_1.amount_remaining": 0, "org_1.has_access": True},
        ),
        Life(
            "an upgrade is declined, and support voids its invoice",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(
                    *(9 * DAY, "past_due"),
                    previous={**m.make.price_change(STARTER), "status": "active", "latest_invoice": "in_1"},
                    latest_invoice="in_2",
                ),
                m.failed(9 * DAY, id_="in_2", created=9 * DAY, reason="subscription_update"),
                m.inv(12 * DAY, "voided", "in_2", 9 * DAY, status="void", reason="subscription_update"),
                m.sub(12 * DAY, "active", previous={"status": "past_due"}, latest_invoice="in_2"),
            ],
            {"sub_1.plan": "pro", "sub_1.status": "active", "in_2.status": "closed", "org_1.access_until": None},
        ),
    ]
