"""Statuses and access: recoveries, trials, invoices by hand, several invoices of one subscription (C1, C2, B8)."""

from __future__ import annotations

from local.stripe.builder import ApiShape
from tests.field.further.kit import HOUR, STARTER, Life, Maker
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [
        Life(
            "trial ends without card, invoice created: past_due",
            [
                m.sub(0, "trialing", "created", trial_end=NOW + 14 * DAY),
                m.sub(
                    14 * DAY,
                    "active",
                    previous={"status": "trialing", "latest_invoice": "in_1"},
                    trial_end=NOW + 14 * DAY,
                    latest_invoice="in_2",
                ),
                m.failed(14 * DAY + HOUR, id_="in_2", created=14 * DAY),
                m.sub(
                    14 * DAY + HOUR,
                    "past_due",
                    previous={"status": "active"},
                    trial_end=NOW + 14 * DAY,
                    latest_invoice="in_2",
                ),
            ],
            {
                "sub_1.status": "past_due",
                "sub_1.payment_attempts": 1,
                "org_1.status": "payment_failed",
                "org_1.has_access": True,
                "in_2.status": "failed",
            },
            {"payment-failed": 1, "subscription-welcome": 1},
        ),
        Life(
            "the first payment needs authentication, and three events share a second",
            [
                m.sub(0, "incomplete", "created"),
                m.inv(0, "payment_action_required", reason="subscription_create"),
                m.paid(90, reason="subscription_create"),
                m.sub(90, "active", previous={"status": "incomplete"}),
            ],
            {
                "sub_1.status": "active",
                "org_1.status": "active",
                "in_1.status": "succeeded",
                "org_1.billing_status": "paid",
            },
            {"subscription-welcome": 1, "payment-receipt": 1},
        ),
        Life(
            "recovered with the update created one second before the invoice's event",
            [
                m.sub(0, "active", "created"),
                m.failed(DAY),
                m.sub(DAY - 1, "past_due", previous={"status": "active"}),
                m.sub(5 * DAY - 1, "active", previous={"status": "past_due"}),
                m.paid(5 * DAY),
            ],
            {"sub_1.status": "active", "sub_1.payment_failed_at": None, "org_1.billing_status": "paid"},
            {"payment-receipt": 1},
        ),
        Life(
            "unpaid, then the newest is paid while the older stays open",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.failed(20 * DAY, 4, None),
                m.sub(20 * DAY, "unpaid", previous={"status": "past_due"}),
                m.renewed(30 * DAY, "unpaid", {"latest_invoice": "in_1"}),
                m.paid(33 * DAY, id_="in_2", created=30 * DAY),
                m.sub(
                    33 * DAY,
                    "active",
                    previous={"status": "unpaid"},
                    start=NOW + 30 * DAY,
                    created=NOW,
                    latest_invoice="in_2",
                ),
            ],
            {
                "sub_1.status": "active",
                "org_1.status": "active",
                "org_1.has_access": True,
                "in_1.status": "failed",
                "in_2.status": "succeeded",
            },
            {"payment-receipt": 1},
        ),
        Life(
            "the update about recovery is lost: the paid latest invoice says it",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.paid(4 * DAY),
            ],
            {"sub_1.status": "active", "org_1.status": "active"},
        ),
        Life(
            "older invoice voided while the latest is owed",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.renewed(30 * DAY, "past_due", {"latest_invoice": "in_1"}),
                m.failed(30 * DAY + HOUR, id_="in_2", created=30 * DAY),
                m.inv(31 * DAY, "voided", status="void"),
            ],
            {
                "sub_1.status": "past_due",
                "sub_1.failed_invoice": "in_2",
                "in_1.status": "closed",
                "in_2.status": "failed",
            },
        ),
        Life(
            "latest written off: active again, nothing owed by the subscription",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.inv(9 * DAY, "marked_uncollectible", status="uncollectible"),
                m.sub(9 * DAY, "active", previous={"status": "past_due"}),
            ],
            {"sub_1.status": "active", "org_1.status": "active", "org_1.has_access": True, "in_1.status": "closed"},
        ),
        Life(
            "send invoice overdue by Stripe's word, paid late",
            [
                m.sub(0, "active", "created", collection_method="send_invoice"),
                m.inv(30 * DAY, "overdue", collection_method="send_invoice", due_date=NOW + 30 * DAY),
                m.sub(30 * DAY, "past_due", previous={"status": "active"}, collection_method="send_invoice"),
                m.paid(40 * DAY, collection_method="send_invoice", due_date=NOW + 30 * DAY),
                m.sub(40 * DAY, "active", previous={"status": "past_due"}, collection_method="send_invoice"),
            ],
            {"sub_1.status": "active", "in_1.status": "succeeded", "org_1.status": "active"},
            {"invoice-overdue": 1, "payment-receipt": 1, "payment-failed": 0},
        ),
        Life(
            "send invoice past due: grace counts from the due date",
            [
                m.sub(0, "active", "created", collection_method="send_invoice", days_until_due=20),
                m.sub(
                    20 * DAY,
                    "past_due",
                    previous={"status": "active"},
                    collection_method="send_invoice",
                    days_until_due=20,
                ),
            ],
            {"sub_1.status": "past_due", "org_1.has_access": True, "org_1.access_until": 34 * DAY},
        ),
        Life(
            "send invoice past due, seen in a later update: grace still counts from the due date",
            [
                m.sub(0, "active", "created", collection_method="send_invoice", days_until_due=20),
                m.sub(
                    20 * DAY,
                    "past_due",
                    previous={"status": "active"},
                    collection_method="send_invoice",
                    days_until_due=20,
                ),
                m.sub(
                    22 * DAY,
                    "past_due",
                    previous={"default_payment_method": None},
                    default_payment_method="pm_1",
                    collection_method="send_invoice",
                    days_until_due=20,
                ),
            ],
            {"sub_1.status": "past_due", "org_1.has_access": True, "org_1.access_until": 34 * DAY},
        ),
        Life(
            "past due a second time: grace counts from the second time",
            [
                m.sub(0, "active", "created", collection_method="send_invoice", days_until_due=10),
                m.sub(
                    10 * DAY,
                    "past_due",
                    previous={"status": "active"},
                    collection_method="send_invoice",
                    days_until_due=10,
                ),
                m.sub(
                    12 * DAY,
                    "active",
                    previous={"status": "past_due"},
                    collection_method="send_invoice",
                    days_until_due=10,
                ),
                m.sub(
                    40 * DAY,
                    "past_due",
                    previous={"status": "active"},
                    collection_method="send_invoice",
                    days_until_due=10,
                    start=NOW + 30 * DAY,
                    created=NOW,
                ),
            ],
            {"sub_1.status": "past_due", "org_1.access_until": 54 * DAY},
        ),
        Life(
            "past due beside a smaller active one: the larger plan for the grace time, then the smaller",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.sub(0, "active", "created", id_="sub_2", price=STARTER, latest_invoice="in_2"),
            ],
            {"org_1.plan": "pro", "org_1.has_access": True, "org_1.access_until": 15 * DAY},
        ),
        Life(
            "trial extended twice, then will_end",
            [
                m.sub(0, "trialing", "created", trial_end=NOW + 3 * DAY),
                m.sub(1 * DAY, "trialing", previous={"trial_end": NOW + 3 * DAY}, trial_end=NOW + 10 * DAY),
                m.sub(2 * DAY, "trialing", previous={"trial_end": NOW + 10 * DAY}, trial_end=NOW + 20 * DAY),
                m.sub(17 * DAY, "trialing", "trial_will_end", trial_end=NOW + 20 * DAY),
            ],
            {"sub_1.trial_end": 20 * DAY, "sub_1.status": "trialing"},
            {"trial-ending": 1},
        ),
        Life(
            "resumed after paused trial: invoice first",
            [
                m.sub(0, "trialing", "created", trial_end=NOW + 7 * DAY),
                m.sub(7 * DAY, "paused", previous={"status": "trialing"}, trial_end=NOW + 7 * DAY),
                m.sub(7 * DAY, "paused", "paused", trial_end=NOW + 7 * DAY),
                m.paid(9 * DAY, id_="in_2", created=9 * DAY, reason="subscription_update"),
                m.sub(
                    9 * DAY,
                    "active",
                    previous={"status": "paused", "latest_invoice": "in_1"},
                    latest_invoice="in_2",
                    trial_end=NOW + 7 * DAY,
                ),
                m.sub(9 * DAY, "active", "resumed", latest_invoice="in_2", trial_end=NOW + 7 * DAY),
            ],
            {"sub_1.status": "active", "org_1.status": "active"},
            {"subscription-welcome": 1},
        ),
        Life(
            "larger one unpaid, smaller one active: the smaller plan",
            [
                m.sub(0, "unpaid", "created"),
                m.sub(1, "active", "created", id_="sub_2", price=STARTER, latest_invoice="in_2"),
            ],
            {
                "org_1.plan": "starter",
                "org_1.has_access": True,
                "org_1.access_reason": "active",
                "org_1.status": "payment_failed",
            },
        ),
        Life(
            "unpaid, and all events of the failed invoice are lost",
            [
                m.sub(0, "active", "created"),
                m.sub(30 * DAY, "unpaid", previous={"status": "active"}, latest_invoice="in_2"),
            ],
            {
                "sub_1.status": "unpaid",
                "org_1.has_access": False,
                "org_1.status": "payment_failed",
                "org_1.billing_status": "failed",
            },
        ),
        Life(
            "a late first failure does not undo an update of the same second",
            [
                m.sub(0, "active", "created"),
                m.sub(DAY, "trialing", previous={"status": "past_due"}, trial_end=NOW + 9 * DAY),
                m.failed(DAY),
            ],
            {"sub_1.status": "trialing", "org_1.status": "trialing"},
        ),
        Life(
            "first cycle invoice of a trial fails, a trial is given again",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.sub(
                    2 * DAY, "trialing", previous={"status": "past_due", "trial_end": None}, trial_end=NOW + 30 * DAY
                ),
                m.failed(4 * DAY, 2),
            ],
            {"sub_1.status": "trialing", "org_1.has_access": True, "org_1.status": "trialing"},
            {"payment-final": 0},
        ),
        Life(
            "manual invoice with the subscription's id fails",
            [
                m.sub(0, "active", "created"),
                m.failed(DAY, id_="in_x", created=DAY, reason="manual"),
            ],
            {"sub_1.status": "active", "org_1.status": "active", "in_x.status": "failed"},
            {"payment-failed": 1},
        ),
        Life(
            "threshold invoice becomes the latest and fails: Stripe's past_due; then paid",
            [
                m.sub(0, "active", "created"),
                m.sub(9 * DAY, "active", previous={"latest_invoice": "in_1"}, latest_invoice="in_2"),
                m.failed(9 * DAY + HOUR, id_="in_2", created=9 * DAY, reason="subscription_threshold"),
                m.paid(10 * DAY, id_="in_2", created=9 * DAY, reason="subscription_threshold"),
            ],
            {"sub_1.status": "active", "in_2.status": "succeeded"},
        ),
        Life(
            "charge automatically changed to send_invoice, first is past due",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.sub(
                    2 * DAY,
                    "past_due",
                    previous={"collection_method": "charge_automatically"},
                    collection_method="send_invoice",
                ),
                m.paid(3 * DAY, paid_out_of_band=True),
                m.sub(3 * DAY, "active", previous={"status": "past_due"}, collection_method="send_invoice"),
            ],
            {"sub_1.status": "active", "org_1.billing_status": "paid"},
        ),
        Life(
            "past due, trial given, trial ends into active with a paid invoice",
            [
                m.sub(0, "active", "created"),
                *m.declined(DAY),
                m.sub(
                    2 * DAY,
                    "trialing",
                    previous={"status": "past_due", "trial_end": None},
                    trial_end=NOW + 20 * DAY,
                    latest_invoice="in_2",
                ),
                m.paid(2 * DAY, id_="in_2", created=2 * DAY, amount=0, reason="subscription_update"),
                m.sub(
                    20 * DAY,
                    "active",
                    previous={"status": "trialing", "latest_invoice": "in_2"},
                    trial_end=NOW + 20 * DAY,
                    latest_invoice="in_3",
                ),
                m.paid(20 * DAY + HOUR, id_="in_3", created=20 * DAY),
            ],
            {"sub_1.status": "active", "in_1.status": "failed", "in_3.status": "succeeded"},
            {"subscription-welcome": 1},
        ),
        Life(
            "the second card pays the first invoice after an hour",
            [
                m.sub(0, "incomplete", "created"),
                m.failed(0, reason="subscription_create", retry=None),
                m.intent(0, "payment_failed", failure="No."),
                m.paid(HOUR, reason="subscription_create"),
                m.sub(HOUR, "active", previous={"status": "incomplete"}),
            ],
            {"sub_1.status": "active", "org_1.status": "active", "in_1.status": "succeeded"},
            {"subscription-welcome": 1, "payment-final": 0, "payment-receipt": 1},
        ),
    ]
