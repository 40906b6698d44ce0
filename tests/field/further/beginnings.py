"""Trials without a card, first payments, and pauses: how subscriptions begin, or do not (B1, B2, B5, B8)."""

from __future__ import annotations

from typing import Any

from local.stripe.builder import ApiShape
from tests.field.further.kit import HOUR, PRO, STARTER, YEARLY, Life, Maker
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m = Maker(shape)
    trial: dict[str, Any] = {"trial_end": NOW + 14 * DAY}
    without_card: dict[str, Any] = {**trial, "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}}}
    paused = [
        m.sub(0, "trialing", "created", **trial),
        m.sub(14 * DAY, "paused", previous={"status": "trialing"}, **trial),
        m.sub(14 * DAY, "paused", "paused", **trial),
    ]
    resumed: dict[str, Any] = {"latest_invoice": "in_2", "start": NOW + 20 * DAY, "created": NOW, **trial}
    first: dict[str, Any] = {"reason": "subscription_create"}
    return [
        Life(
            "a trial without a card ends with the subscription",
            [
                m.sub(0, "trialing", "created", **without_card),
                m.sub(11 * DAY, "trialing", "trial_will_end", **without_card),
                m.ended(14 * DAY, None, **without_card),
            ],
            {
                "sub_1.status": "canceled",
                "org_1.status": "cancelled",
                "org_1.has_access": False,
                "org_1.cancelled_at": 14 * DAY,
            },
            {"subscription-welcome": 1, "trial-ending": 1, "subscription-canceled": 1, "win-back": 1},
        ),
        Life(
            "paused after the trial, and canceled while paused",
            [*paused, m.ended(40 * DAY, "cancellation_requested", **trial)],
            {"sub_1.status": "canceled", "sub_1.ended_at": 40 * DAY, "org_1.plan": "free"},
            {"subscription-canceled": 1, "churn-survey": 1},
        ),
        Life(
            "resumed after the trial, and the first payment is declined: it stays paused",
            [*paused, m.failed(20 * DAY, 1, None, id_="in_2", created=20 * DAY)],
            {"sub_1.status": "paused", "org_1.has_access": False, "org_1.access_reason": "paused"},
        ),
        Life(
            "resumed after the trial with the second card",
            [
                *paused,
                m.failed(20 * DAY, 1, None, id_="in_2", created=20 * DAY),
                m.paid(20 * DAY + HOUR, "in_2", created=20 * DAY),
                m.sub(20 * DAY + HOUR, "active", previous={"status": "paused", "latest_invoice": "in_1"}, **resumed),
                m.sub(20 * DAY + HOUR, "active", "resumed", **resumed),
            ],
            {"sub_1.status": "active", "sub_1.payment_failed_at": None, "org_1.next_billing_at": 50 * DAY},
            {"subscription-welcome": 1, "payment-final": 0},
        ),
        Life(
            "the first payment never arrives: voided and expired",
            [
                *[m.sub(0, "incomplete", "created"), m.failed(0, 1, None, **first)],
                m.inv(23 * HOUR, "voided", status="void", **first),
                m.sub(23 * HOUR, "incomplete_expired", previous={"status": "incomplete"}, ended_at=NOW + 23 * HOUR),
            ],
            {"sub_1.status": "incomplete_expired", "in_1.status": "closed", "org_1.billing_status": None},
            {"subscription-welcome": 0, "subscription-canceled": 0, "win-back": 0, "payment-final": 0},
        ),
        Life(
            "canceled by hand before the first payment",
            [
                *[m.sub(0, "incomplete", "created"), m.failed(0, 1, None, **first)],
                m.inv(HOUR, "voided", status="void", **first),
                m.ended(HOUR, "cancellation_requested"),
            ],
            {"sub_1.status": "canceled", "in_1.status": "closed", "org_1.has_access": False},
            {"subscription-welcome": 0},
        ),
        Life(
            "active at once by a bank debit that fails days later",
            [
                *[m.session(0, "completed", "unpaid", mode="subscription"), m.sub(0, "active", "created")],
                m.failed(5 * DAY, 1, None, **first),
                m.sub(5 * DAY, "past_due", previous={"status": "active"}),
            ],
            {"sub_1.status": "past_due", "org_1.status": "payment_failed", "org_1.access_until": 19 * DAY},
            {"subscription-welcome": 1},
        ),
        Life(
            "began three months before it was made",
            [
                m.sub(0, "active", "created", created=NOW, start=NOW - 5 * DAY, start_date=NOW - 90 * DAY),
                m.paid(0, amount=8700, **first),
            ],
            {"sub_1.status": "active", "org_1.next_billing_at": 25 * DAY, "in_1.amount": 8700},
            {"subscription-welcome": 1, "payment-receipt": 1},
        ),
        Life(
            "a smaller plan at once: an invoice of nothing, and credit",
            [
                *[m.sub(0, "active", "created"), m.paid(0, **first)],
                m.sub(
                    *(10 * DAY, "active"),
                    previous={**m.make.price_change(PRO), "latest_invoice": "in_1"},
                    price=STARTER,
                    latest_invoice="in_2",
                ),
                m.paid(10 * DAY, "in_2", created=10 * DAY, amount=0, total=-1300, reason="subscription_update"),
            ],
            {"sub_1.plan": "starter", "in_2.status": "succeeded", "in_2.amount": 0, "org_1.next_billing_at": 30 * DAY},
            {"plan-changed": 1, "payment-receipt": 1},
        ),
        Life(
            "monthly to yearly at once: the period begins again",
            [
                *[m.sub(0, "active", "created"), m.paid(0, **first)],
                m.sub(
                    *(10 * DAY, "active"),
                    previous={**m.make.price_change(PRO), "latest_invoice": "in_1"},
                    price=YEARLY,
                    latest_invoice="in_2",
                    start=NOW + 10 * DAY,
                    end=NOW + 375 * DAY,
                    created=NOW,
                ),
                m.paid(10 * DAY + 5, "in_2", price=YEARLY, created=10 * DAY, reason="subscription_update"),
            ],
            {"sub_1.plan": "pro", "sub_1.interval": "year", "org_1.next_billing_at": 375 * DAY},
            {"plan-changed": 1, "payment-receipt": 2},
        ),
        *[
            Life(
                f"collection paused with {behavior} over a renewal, then resumed",
                [
                    m.sub(0, "active", "created"),
                    m.sub(5 * DAY, "active", previous={"pause_collection": None}, pause_collection=pause),
                    m.renewed(30 * DAY, "active", {"latest_invoice": "in_1"}, pause_collection=pause),
                    *([m.inv(30 * DAY + HOUR, kind, "in_2", 30 * DAY, status=status, attempts=0)] if kind else []),
                    m.renewed(40 * DAY, "active", {"pause_collection": pause}),
                ],
                {
                    "sub_1.pause_collection": None,
                    "sub_1.status": "active",
                    "org_1.access_reason": "active",
                    "org_1.next_billing_at": 60 * DAY,
                    **({"in_2.status": "closed"} if kind else {}),
                },
            )
            for behavior, kind, status in (
                ("void", "voided", "void"),
                ("mark_uncollectible", "marked_uncollectible", "uncollectible"),
                ("keep_as_draft", "", ""),
            )
            for pause in ({"behavior": behavior, "resumes_at": None},)
        ],
    ]
