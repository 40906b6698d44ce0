"""Ends of each kind, scheduled or not, and returns (B4, B6, B9)."""

from __future__ import annotations

from local.stripe.builder import ApiShape, Price
from tests.field.further.kit import HOUR, PRO, STARTER, Life, Maker
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [
        Life(
            "canceled, and the last invoice fails once more",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.ended(3 * DAY),
                m.failed(4 * DAY, 2),
            ],
            {"sub_1.status": "canceled", "org_1.plan": "free", "org_1.has_access": False},
            {"subscription-canceled": 1, "payment-final": 0},
        ),
        Life(
            "ended by failed payments: one mail and no survey",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.failed(20 * DAY, 4, None),
                m.ended(20 * DAY, "payment_failed"),
            ],
            {"sub_1.status": "canceled", "sub_1.cancellation_reason": "payment_failed"},
            {"subscription-canceled": 1, "churn-survey": 0, "win-back": 1},
        ),
        Life(
            "canceled at once while a trial",
            [
                m.sub(0, "trialing", "created", trial_end=NOW + 14 * DAY),
                m.ended(3 * DAY, "cancellation_requested", trial_end=NOW + 14 * DAY),
            ],
            {"sub_1.status": "canceled", "org_1.plan": "free"},
            {"trial-ending": 0, "subscription-canceled": 1, "churn-survey": 1},
        ),
        Life(
            "cancel_at set, moved, and removed",
            [
                m.sub(0, "active", "created"),
                m.sub(1 * DAY, "active", previous={"cancel_at": None}, cancel_at=NOW + 30 * DAY, canceled_at=NOW + DAY),
                m.sub(
                    2 * DAY,
                    "active",
                    previous={"cancel_at": NOW + 30 * DAY},
                    cancel_at=NOW + 60 * DAY,
                    canceled_at=NOW + DAY,
                ),
                m.sub(3 * DAY, "active", previous={"cancel_at": NOW + 60 * DAY, "canceled_at": NOW + DAY}),
            ],
            {
                "sub_1.cancel_at": None,
                "sub_1.canceled_at": None,
                "org_1.next_billing_at": 30 * DAY,
                "org_1.access_changes_at": None,
            },
        ),
        Life(
            "cancel_at in a later period: still renews this time",
            [
                m.sub(0, "active", "created"),
                m.sub(1 * DAY, "active", previous={"cancel_at": None}, cancel_at=NOW + 75 * DAY, canceled_at=NOW + DAY),
            ],
            {"sub_1.cancel_at": 75 * DAY, "org_1.next_billing_at": 30 * DAY, "org_1.access_changes_at": 75 * DAY},
        ),
        Life(
            "cancel at period end and a pause, resumed",
            [
                m.sub(0, "active", "created"),
                m.sub(
                    1 * DAY,
                    "active",
                    previous={"pause_collection": None},
                    pause_collection={"behavior": "void", "resumes_at": NOW + 20 * DAY},
                ),
                m.sub(
                    2 * DAY,
                    "active",
                    previous={"cancel_at_period_end": False},
                    cancel_at_period_end=True,
                    cancel_at=NOW + 30 * DAY,
                    canceled_at=NOW + 2 * DAY,
                    pause_collection={"behavior": "void", "resumes_at": NOW + 20 * DAY},
                ),
                m.sub(
                    20 * DAY,
                    "active",
                    previous={"pause_collection": {"behavior": "void", "resumes_at": NOW + 20 * DAY}},
                    cancel_at_period_end=True,
                    cancel_at=NOW + 30 * DAY,
                    canceled_at=NOW + 2 * DAY,
                ),
            ],
            {
                "sub_1.pause_collection": None,
                "sub_1.resumes_at": None,
                "org_1.next_billing_at": None,
                "org_1.access_changes_at": 30 * DAY,
                "org_1.access_reason": "active",
            },
        ),
        Life(
            "incomplete_expired arrives without created; second subscription runs",
            [
                m.sub(DAY, "incomplete_expired", previous={"status": "incomplete"}, ended_at=NOW + DAY),
                m.sub(2 * DAY, "active", "created", id_="sub_2", latest_invoice="in_2", start=NOW + 2 * DAY),
            ],
            {"sub_1.status": "incomplete_expired", "org_1.status": "active", "org_1.plan": "pro"},
            {"subscription-canceled": 0, "subscription-welcome": 1},
        ),
        Life(
            "upgrade bought as second; the first is then canceled: stays pro",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(5 * DAY, "active", "created", id_="sub_2", latest_invoice="in_2", start=NOW + 5 * DAY),
                m.ended(6 * DAY, price=STARTER),
            ],
            {"org_1.plan": "pro", "org_1.status": "active", "cus_1.erased_at": None},
            {"win-back": 0},
        ),
        Life(
            "returns before the erasure",
            [
                m.sub(0, "active", "created"),
                m.ended(5 * DAY),
                m.sub(20 * DAY, "active", "created", id_="sub_2", start=NOW + 20 * DAY, latest_invoice="in_2"),
            ],
            {"org_1.status": "active", "cus_1.erased_at": None},
            {"subscription-canceled": 1, "subscription-welcome": 2},
        ),
        Life(
            "upcoming of a subscription that ends with cancel_at",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "active", previous={"cancel_at": None}, cancel_at=NOW + 30 * DAY, canceled_at=NOW + DAY),
                m.inv(23 * DAY, "upcoming", None, 23 * DAY, next_attempt=NOW + 30 * DAY, status="draft"),
            ],
            {"sub_1.cancel_at": 30 * DAY},
        ),
        Life(
            "upcoming of a subscription that ends a period later",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "active", previous={"cancel_at": None}, cancel_at=NOW + 60 * DAY, canceled_at=NOW + DAY),
                m.inv(23 * DAY, "upcoming", None, 23 * DAY, next_attempt=NOW + 30 * DAY, status="draft"),
            ],
            {"sub_1.cancel_at": 60 * DAY},
            {"renewal-reminder": 1},
        ),
        Life(
            "an upcoming invoice of an unpaid subscription",
            [
                m.sub(0, "unpaid", "created"),
                m.inv(23 * DAY, "upcoming", None, 23 * DAY, next_attempt=None, status="draft"),
            ],
            {"sub_1.status": "unpaid"},
            {},
        ),
        Life(
            "trial set to cancel by cancel_at: no promise of a charge",
            [
                m.sub(0, "trialing", "created", trial_end=NOW + 14 * DAY, end=NOW + 14 * DAY),
                m.sub(
                    DAY,
                    "trialing",
                    previous={"cancel_at": None},
                    cancel_at=NOW + 14 * DAY,
                    canceled_at=NOW + DAY,
                    trial_end=NOW + 14 * DAY,
                    end=NOW + 14 * DAY,
                ),
                m.sub(
                    11 * DAY,
                    "trialing",
                    "trial_will_end",
                    cancel_at=NOW + 14 * DAY,
                    canceled_at=NOW + DAY,
                    trial_end=NOW + 14 * DAY,
                    end=NOW + 14 * DAY,
                ),
            ],
            {"org_1.access_changes_at": 14 * DAY, "org_1.next_billing_at": None},
            {},
        ),
        Life(
            "subscription of a customer who is deleted at Stripe, then late updates",
            [
                m.sub(0, "active", "created"),
                m.of(3 * DAY, "customer.deleted", {"id": "cus_1", "object": "customer", "deleted": True}),
                m.ended(3 * DAY),
                m.sub(2 * DAY, "active", previous={"metadata": {}}),
            ],
            {"sub_1.status": "canceled", "org_1.status": "cancelled", "org_1.access_reason": "customer_deleted"},
            {"win-back": 0},
        ),
        Life(
            "checkout unpaid (SEPA), subscription incomplete, then expired",
            [
                m.session(0, "completed", "unpaid", mode="subscription"),
                m.sub(0, "incomplete", "created"),
                m.session(DAY, "async_payment_failed", "unpaid", mode="subscription"),
                m.sub(DAY, "incomplete_expired", previous={"status": "incomplete"}),
            ],
            {"sub_1.status": "incomplete_expired", "org_1.has_access": False},
            {"subscription-welcome": 0},
        ),
        Life(
            "upgrade and cancel in one update, then undone",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(
                    DAY,
                    "active",
                    previous={"cancel_at_period_end": False, "cancel_at": None, "canceled_at": None}
                    | m.make.price_change(STARTER),
                    cancel_at_period_end=True,
                    cancel_at=NOW + 30 * DAY,
                    canceled_at=NOW + DAY,
                ),
                m.sub(
                    2 * DAY,
                    "active",
                    previous={"cancel_at_period_end": True, "cancel_at": NOW + 30 * DAY, "canceled_at": NOW + DAY},
                ),
            ],
            {
                "sub_1.plan": "pro",
                "sub_1.cancel_at_period_end": False,
                "sub_1.canceled_at": None,
                "org_1.next_billing_at": 30 * DAY,
            },
            {"plan-changed": 1},
        ),
        Life(
            "upgrade as a second subscription of another currency",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.sub(
                    9 * DAY,
                    "active",
                    "created",
                    id_="sub_2",
                    latest_invoice="in_2",
                    price=Price("price_pro_monthly", 3100, "usd"),
                    start=NOW + 9 * DAY,
                ),
                m.ended(9 * DAY + 5, price=STARTER),
            ],
            {"org_1.plan": "pro", "sub_2.currency": "usd", "sub_1.currency": "eur", "org_1.next_billing_at": 39 * DAY},
            {"win-back": 0},
        ),
        Life(
            "canceled subscription's void of the open invoice, and a new one in the same second",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.ended(5 * DAY),
                m.inv(5 * DAY, "voided", status="void"),
                m.sub(5 * DAY, "active", "created", id_="sub_2", latest_invoice="in_2", start=NOW + 5 * DAY),
                m.paid(5 * DAY, id_="in_2", subscription="sub_2", created=5 * DAY, reason="subscription_create"),
            ],
            {
                "sub_1.status": "canceled",
                "org_1.status": "active",
                "in_1.status": "closed",
                "org_1.billing_status": "paid",
                "cus_1.erased_at": None,
            },
            {"win-back": 0},
        ),
        Life(
            "uncollectible setting: written off at the end of retries, subscription canceled, paid a month later",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.failed(9 * DAY, 4, None),
                m.inv(9 * DAY, "marked_uncollectible", status="uncollectible", attempts=4),
                m.ended(9 * DAY, "payment_failed"),
                m.paid(20 * DAY),
            ],
            {"sub_1.status": "canceled", "org_1.plan": "free", "in_1.status": "succeeded"},
            {"payment-receipt": 1, "churn-survey": 0},
        ),
        Life(
            "schedule: update releases, price changes, then canceled by the schedule's end behavior",
            [
                m.sub(0, "active", "created", schedule="sub_sched_1"),
                m.sub(
                    30 * DAY,
                    "active",
                    previous=m.make.price_change(PRO) | {"latest_invoice": "in_1"},
                    price=STARTER,
                    schedule="sub_sched_1",
                    latest_invoice="in_2",
                    start=NOW + 30 * DAY,
                    created=NOW,
                ),
                m.paid(30 * DAY + HOUR, id_="in_2", created=30 * DAY, price=STARTER),
                m.ended(60 * DAY, price=STARTER, latest_invoice="in_2", start=NOW + 30 * DAY, created=NOW),
            ],
            {"sub_1.status": "canceled", "org_1.plan": "free", "in_2.amount": 900},
            {"plan-changed": 1, "subscription-canceled": 1},
            fires=None,
        ),
    ]
