"""Several objects at once: two subscriptions of a customer, and changes that meet in one subscription."""

from __future__ import annotations

from typing import Any

from local.stripe.builder import ApiShape, Price
from tests.field.further.kit import ADD_ON, ALONE, HOUR, PRO, STARTER, YEARLY, Life, Maker, items, second
from tests.kits.rulekit import DAY, NOW

DOLLARS = Price("price_pro_monthly", 3500, "usd")


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    return [*_subscriptions(m), *_scheduled(m)]


def _subscriptions(m: Maker) -> list[Life]:
    of_second: dict[str, Any] = {"subscription": "sub_2", "created": DAY, "price": STARTER}
    both = [m.sub(0, "active", "created"), m.paid(0), second(m, DAY, "active", "created")]
    return [
        Life(
            "one invoice by hand for two subscriptions is declined, then paid",
            [
                *both,
                m.paid(DAY, "in_2", **of_second),
                m.failed(3 * DAY, id_="in_3", created=3 * DAY, amount=3800, **ALONE),
                m.paid(4 * DAY, "in_3", created=3 * DAY, amount=3800, **ALONE),
            ],
            {
                "sub_1.status": "active",
                "sub_2.status": "active",
                "in_3.status": "succeeded",
                "in_3.amount": 3800,
                "in_3.subscription_id": None,
                "org_1.plan": "pro",
                "org_1.billing_status": "paid",
            },
            {"payment-receipt": 3},
        ),
        Life(
            "two past due, the larger one is paid, the smaller one's invoice is voided",
            [
                *both,
                m.failed(3 * DAY, id_="in_3", created=3 * DAY),
                m.sub(
                    3 * DAY, "past_due", previous={"status": "active", "latest_invoice": "in_1"}, latest_invoice="in_3",
                ),
                m.failed(3 * DAY, id_="in_2", **of_second),
                second(m, 3 * DAY, "past_due", previous={"status": "active"}),
                m.paid(5 * DAY, "in_3", created=3 * DAY),
                m.sub(5 * DAY, "active", previous={"status": "past_due"}, latest_invoice="in_3"),
                m.inv(6 * DAY, "voided", "in_2", status="void", **of_second),
                second(m, 6 * DAY, "active", previous={"status": "past_due"}),
            ],
            {
                "sub_1.status": "active",
                "sub_2.status": "active",
                "in_2.status": "closed",
                "in_3.status": "succeeded",
                "org_1.billing_status": "paid",
                "org_1.access_until": None,
            },
        ),
        Life(
            "the smaller one ends for non-payment while the larger one runs",
            [
                *both,
                m.failed(2 * DAY, id_="in_2", **of_second),
                second(m, 2 * DAY, "past_due", previous={"status": "active"}),
                second(
                    m, 9 * DAY, "canceled", "deleted", ended_at=NOW + 9 * DAY, canceled_at=NOW + 9 * DAY,
                    cancellation_details={"reason": "payment_failed", "comment": None, "feedback": None},
                ),
                m.renewed(30 * DAY, "active", {"latest_invoice": "in_1"}, latest_invoice="in_4"),
                m.paid(30 * DAY, "in_4", created=30 * DAY),
            ],
            {
                "sub_1.status": "active",
                "sub_2.status": "canceled",
                "org_1.status": "active",
                "org_1.plan": "pro",
                "org_1.has_access": True,
                "org_1.next_billing_at": 60 * DAY,
                "cus_1.deleted_at": None,
            },
            {"win-back": 0, "churn-survey": 0},
        ),
        Life(
            "the larger one ends in the second in which the smaller one begins",
            [
                m.sub(0, "active", "created"),
                m.ended(DAY, "cancellation_requested"),
                second(m, DAY, "active", "created"),
                m.paid(DAY, "in_2", reason="subscription_create", **of_second),
            ],
            {
                "sub_1.status": "canceled",
                "sub_2.status": "active",
                "org_1.status": "active",
                "org_1.plan": "starter",
                "org_1.has_access": True,
                "org_1.cancelled_at": None,
                "org_1.next_billing_at": 31 * DAY,
            },
            {"win-back": 0},
        ),
        Life(
            "two trials, one is canceled in its trial and the other one is paid",
            [
                m.sub(0, "trialing", "created", trial_end=NOW + 14 * DAY),
                second(m, DAY, "trialing", "created", trial_end=NOW + 8 * DAY),
                m.ended(2 * DAY, "cancellation_requested", trial_end=NOW + 14 * DAY),
                second(
                    m, 8 * DAY, "active", previous={"status": "trialing", "latest_invoice": "in_2"},
                    trial_end=NOW + 8 * DAY, latest_invoice="in_3", start=NOW + 8 * DAY,
                ),
                m.paid(8 * DAY, "in_3", created=8 * DAY, subscription="sub_2", price=STARTER),
            ],
            {
                "sub_1.status": "canceled",
                "sub_2.status": "active",
                "in_3.subscription_id": "sub_2",
                "in_3.amount": 900,
                "org_1.plan": "starter",
                "org_1.next_billing_at": 38 * DAY,
            },
            {"win-back": 0, "payment-receipt": 1},
        ),
        Life(
            "an incomplete second one expires and leaves the first one as it is",
            [
                m.sub(0, "active", "created"),
                m.paid(0),
                second(m, DAY, "incomplete", "created", price=YEARLY),
                m.failed(DAY, 1, None, id_="in_2", reason="subscription_create", **{**of_second, "price": YEARLY}),
                m.inv(2 * DAY, "voided", "in_2", status="void", reason="subscription_create", **of_second),
                second(
                    m, 2 * DAY, "incomplete_expired", previous={"status": "incomplete"}, price=YEARLY,
                    ended_at=NOW + 2 * DAY,
                ),
            ],
            {
                "sub_1.status": "active",
                "sub_2.status": "incomplete_expired",
                "in_2.status": "closed",
                "org_1.status": "active",
                "org_1.plan": "pro",
                "org_1.billing_status": "paid",
                "org_1.next_billing_at": 30 * DAY,
            },
            {"subscription-canceled": 0, "win-back": 0},
        ),
        Life(
            "subscriptions in two currencies, each is paid in its own",
            [
                m.sub(0, "active", "created"),
                m.paid(0),
                second(m, DAY, "active", "created", price=DOLLARS),
                m.paid(DAY, "in_2", **{**of_second, "price": DOLLARS}),
            ],
            {
                "sub_1.currency": "eur",
                "sub_2.currency": "usd",
                "in_1.currency": "eur",
                "in_2.currency": "usd",
                "in_2.amount": 3500,
                "sub_2.unit_amount": 3500,
            },
            {"payment-receipt": 2},
        ),
        Life(
            "a past due one is replaced by an upgrade whose invoice is paid, and the older invoice is voided",
            [
                m.sub(0, "active", "created", price=STARTER),
                m.failed(DAY, price=STARTER),
                m.sub(DAY, "past_due", previous={"status": "active"}, price=STARTER),
                m.sub(
                    2 * DAY, "active",
                    previous={"status": "past_due", "latest_invoice": "in_1"} | m.make.price_change(STARTER),
                    latest_invoice="in_2",
                ),
                m.paid(2 * DAY, "in_2", created=2 * DAY, reason="subscription_update"),
                m.inv(3 * DAY, "voided", status="void", price=STARTER),
            ],
            {
                "sub_1.status": "active",
                "sub_1.plan": "pro",
                "in_1.status": "closed",
                "in_2.status": "succeeded",
                "sub_1.failed_invoice": None,
                "org_1.billing_status": "paid",
                "org_1.access_until": None,
            },
        ),
        Life(
            "the card of one of two subscriptions is replaced and detached",
            [
                m.method(0, "attached"),
                m.sub(0, "active", "created", default_payment_method="pm_1"),
                second(m, DAY, "active", "created", default_payment_method="pm_1"),
                m.method(2 * DAY, "attached", "pm_2"),
                m.sub(2 * DAY, "active", previous={"default_payment_method": "pm_1"}, default_payment_method="pm_2"),
                second(
                    m, 2 * DAY, "active", previous={"default_payment_method": "pm_1"}, default_payment_method="pm_2",
                ),
                m.method(3 * DAY, "detached", customer=None, previous={"customer": "cus_1"}),
            ],
            {"sub_1.default_payment_method": "pm_2", "sub_2.default_payment_method": "pm_2"},
        ),
    ]  # fmt: skip


def _scheduled(m: Maker) -> list[Life]:
    pause = {"behavior": "void", "resumes_at": NOW + 20 * DAY}
    three: dict[str, Any] = {"quantity": 3, "price": STARTER}
    return [
        Life(
            "a phase of a schedule brings another price and more seats, the next one fewer",
            [
                m.sub(0, "active", "created", **three, schedule="sub_sched_1"),
                m.renewed(
                    30 * DAY, "active", {"latest_invoice": "in_1", "quantity": 3} | m.make.price_change(STARTER),
                    quantity=5, schedule="sub_sched_1",
                ),
                m.paid(30 * DAY, "in_2", created=30 * DAY, amount=14500),
                m.sub(
                    60 * DAY, "active", previous={"latest_invoice": "in_2", "quantity": 5}, quantity=2,
                    start=NOW + 60 * DAY, created=NOW, latest_invoice="in_3", schedule="sub_sched_1",
                ),
                m.sub(
                    60 * DAY + HOUR, "active", previous={"schedule": "sub_sched_1"}, quantity=2,
                    start=NOW + 60 * DAY, created=NOW, latest_invoice="in_3", schedule=None,
                ),
            ],
            {
                "sub_1.quantity": 2,
                "sub_1.plan": "pro",
                "sub_1.status": "active",
                "sub_1.current_period_end": 90 * DAY,
                "org_1.plan": "pro",
                "org_1.next_billing_at": 90 * DAY,
            },
            {"plan-changed": 1},
        ),
        Life(
            "paused, then set to end with its period, and it ends while paused",
            [
                m.sub(0, "active", "created"),
                m.sub(2 * DAY, "active", previous={"pause_collection": None}, pause_collection=pause),
                m.sub(
                    3 * DAY, "active", previous={"cancel_at_period_end": False, "cancel_at": None, "canceled_at": None},
                    pause_collection=pause, cancel_at_period_end=True, cancel_at=NOW + 30 * DAY,
                    canceled_at=NOW + 3 * DAY,
                ),
                m.ended(
                    30 * DAY, "cancellation_requested", pause_collection=pause, cancel_at_period_end=True,
                    cancel_at=NOW + 30 * DAY, canceled_at=NOW + 3 * DAY,
                ),
            ],
            {
                "sub_1.status": "canceled",
                "sub_1.ended_at": 30 * DAY,
                "sub_1.canceled_at": 3 * DAY,
                "org_1.has_access": False,
                "org_1.plan": "free",
                "org_1.next_billing_at": None,
            },
            {"subscription-canceled": 1},
        ),
        Life(
            "paused and set to end, the end is taken back and the pause is over by itself",
            [
                m.sub(0, "active", "created"),
                m.sub(2 * DAY, "active", previous={"pause_collection": None}, pause_collection=pause),
                m.sub(
                    3 * DAY, "active", previous={"cancel_at_period_end": False}, pause_collection=pause,
                    cancel_at_period_end=True,
                ),
                m.sub(4 * DAY, "active", previous={"cancel_at_period_end": True}, pause_collection=pause),
                m.sub(20 * DAY, "active", previous={"pause_collection": pause}),
            ],
            {
                "sub_1.pause_collection": None,
                "sub_1.resumes_at": None,
                "sub_1.cancel_at_period_end": False,
                "org_1.has_access": True,
                "org_1.access_reason": "active",
                "org_1.next_billing_at": 30 * DAY,
            },
        ),
        Life(
            "resumed after its trial with another price and more seats in one update",
            [
                m.sub(0, "trialing", "created", **three, trial_end=NOW + 7 * DAY),
                m.sub(7 * DAY, "paused", previous={"status": "trialing"}, **three, trial_end=NOW + 7 * DAY),
                m.sub(7 * DAY, "paused", "paused", **three, trial_end=NOW + 7 * DAY),
                m.sub(
                    9 * DAY, "active",
                    previous={"status": "paused", "latest_invoice": "in_1",
                    "quantity": 3} | m.make.price_change(STARTER),
                    quantity=4, latest_invoice="in_2", start=NOW + 9 * DAY, created=NOW, trial_end=NOW + 7 * DAY,
                ),
                m.paid(9 * DAY, "in_2", created=9 * DAY, amount=11600),
            ],
            {
                "sub_1.status": "active",
                "sub_1.quantity": 4,
                "sub_1.plan": "pro",
                "in_2.amount": 11600,
                "org_1.has_access": True,
                "org_1.next_billing_at": 39 * DAY,
            },
            {"payment-receipt": 1},
        ),
        Life(
            "a checkout with a trial and a coupon of everything, then half of the price is paid",
            [
                m.session(0, "completed", "no_payment_required", mode="subscription", amount=0, user="user_1"),
                m.sub(0, "trialing", "created", trial_end=NOW + 14 * DAY, trial_start=NOW),
                m.paid(0, reason="subscription_create", amount=0),
                m.sub(
                    14 * DAY, "active", previous={"status": "trialing", "latest_invoice": "in_1"},
                    trial_end=NOW + 14 * DAY, start=NOW + 14 * DAY, created=NOW, latest_invoice="in_2",
                ),
                m.paid(14 * DAY, "in_2", created=14 * DAY, amount=1450),
            ],
            {
                "sub_1.status": "active",
                "in_1.amount": 0,
                "in_1.status": "succeeded",
                "in_2.amount": 1450,
                "cus_1.user_id": "user_1",
                "org_1.next_billing_at": 44 * DAY,
                "org_1.billing_status": "paid",
            },
            {"subscription-welcome": 1},
        ),
        Life(
            "a trial is ended early by an upgrade, whose payment is declined and then made",
            [
                m.sub(0, "trialing", "created", price=STARTER, trial_end=NOW + 14 * DAY),
                m.sub(
                    5 * DAY, "past_due",
                    previous={"status": "trialing", "trial_end": NOW + 14 * DAY, "latest_invoice": "in_1"}
                    | m.make.price_change(STARTER),
                    trial_end=NOW + 5 * DAY, latest_invoice="in_2", start=NOW + 5 * DAY, created=NOW,
                ),
                m.failed(5 * DAY, id_="in_2", created=5 * DAY, reason="subscription_update"),
                m.paid(6 * DAY, "in_2", created=5 * DAY, reason="subscription_update"),
                m.sub(
                    6 * DAY, "active", previous={"status": "past_due"}, trial_end=NOW + 5 * DAY, latest_invoice="in_2",
                    start=NOW + 5 * DAY, created=NOW,
                ),
            ],
            {
                "sub_1.status": "active",
                "sub_1.plan": "pro",
                "sub_1.trial_end": 5 * DAY,
                "in_2.status": "succeeded",
                "org_1.billing_status": "paid",
                "org_1.next_billing_at": 35 * DAY,
            },
            {"trial-ending": 0},
        ),
        Life(
            "add-ons are added and the plan's seats change in one update, and the trial is extended in it",
            [
                m.sub(0, "trialing", "created", trial_end=NOW + 7 * DAY),
                m.sub(
                    DAY, "trialing", previous={"trial_end": NOW + 7 * DAY, "items": items(m.item(PRO))},
                    trial_end=NOW + 21 * DAY, items=items(m.item(ADD_ON, quantity=2), m.item(PRO, quantity=6)),
                ),
            ],
            {"sub_1.plan": "pro", "sub_1.quantity": 6, "sub_1.trial_end": 21 * DAY, "sub_1.status": "trialing"},
            {"plan-changed": 0},
        ),
        Life(
            "yearly to monthly at the end of the year by a schedule, and canceled before it",
            [
                m.sub(0, "active", "created", price=YEARLY, end=NOW + 365 * DAY, schedule="sub_sched_1"),
                m.sub(
                    9 * DAY, "active", previous={"schedule": "sub_sched_1", "cancel_at_period_end": False},
                    price=YEARLY,
                    end=NOW + 365 * DAY, schedule=None, cancel_at_period_end=True,
                ),
            ],
            {
                "sub_1.price_id": "price_pro_yearly",
                "sub_1.cancel_at_period_end": True,
                "org_1.next_billing_at": None,
                "org_1.access_changes_at": 365 * DAY,
            },
            {"plan-changed": 0},
        ),
    ]  # fmt: skip
