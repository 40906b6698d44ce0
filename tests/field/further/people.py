"""Cards that are replaced, and persons with several customers or accounts (B4, C6, C7, C12)."""

from __future__ import annotations

from typing import Any

from local.stripe.builder import ApiShape, Json
from tests.field.further.kit import Life, Maker
from tests.kits.rulekit import DAY, NOW


def lives(shape: ApiShape) -> list[Life]:
    m, there = Maker(shape), Maker(shape, "acct_a")
    user: dict[str, Any] = {"metadata": {"userId": "user_1"}}
    second = {"id_": "sub_2", "customer": "cus_2", "latest_invoice": "in_9", **user}
    begun = [m.customer(0, "created"), m.sub(0, "active", "created"), m.method(0, "attached")]
    removed = {"previous": {"customer": "cus_1"}, "customer": None}
    return [
        Life(
            "the new card is set and the old one removed within one second",
            [
                *[*begun, m.method(DAY, "attached", "pm_2")],
                m.customer(DAY, "updated", default("pm_1"), **default("pm_2")),
                m.method(DAY, "detached", "pm_1", **removed),
            ],
            {"cus_1.default_payment_method": "pm_2"},
            {"payment-method-detached": 0},
            fires=(),
        ),
        Life(
            "the default is cleared, and its card is removed a day later",
            [
                *begun,
                m.customer(0, "updated", default(None), **default("pm_1")),
                m.customer(DAY, "updated", default("pm_1"), **default(None)),
                m.method(2 * DAY, "detached", "pm_1", **removed),
            ],
            {"cus_1.default_payment_method": None},
        ),
        Life(
            "the network renews a card just before it expires",
            [
                *[m.customer(0, "created"), m.sub(0, "active", "created")],
                m.method(0, "attached", expiry=(2027, 2)),
                m.customer(1, "updated", default(None), **default("pm_1")),
                m.method(2 * DAY, "automatically_updated", previous={"card": {"exp_year": 2027}}, expiry=(2030, 2)),
            ],
            {"cus_1.default_payment_method": "pm_1"},
            {"card-expiring": 0},
            fires=(),
        ),
        Life(
            "two customers of a user: the older one ends, the newer one runs",
            [
                m.sub(0, "active", "created", **user),
                m.sub(2 * DAY, "active", "created", start=NOW + 2 * DAY, **second),
                m.ended(3 * DAY, "cancellation_requested", **user),
            ],
            {"org_1.status": "cancelled", "org_2.status": "active", "org_2.has_access": True},
            {"win-back": 0},
        ),
        Life(
            "one user id on two accounts: each customer leaves alone",
            [
                m.sub(0, "active", "created", **user),
                there.sub(0, "trialing", "created", trial_end=NOW + 9 * DAY, **user),
                there.ended(5 * DAY, None, **user),
            ],
            {"sub_1.status": "active", "acct_a/sub_1.status": "canceled", "acct_a/org_1.plan": "free"},
            {"win-back": 1},
        ),
        Life(
            "deleted at Stripe while past due: the open invoice is voided",
            [
                *[m.customer(0, "created"), m.sub(0, "active", "created"), *m.declined(DAY)],
                *[m.customer(2 * DAY, "deleted"), m.ended(2 * DAY), m.inv(2 * DAY, "voided", status="void")],
            ],
            {
                "sub_1.status": "canceled",
                "in_1.status": "closed",
                "org_1.status": "cancelled",
                "org_1.access_reason": "customer_deleted",
            },
            {"win-back": 0, "payment-reminder": 0},
            fires=(),
        ),
    ]


def default(method: str | None) -> Json:
    return {"invoice_settings": {"custom_fields": None, "default_payment_method": method, "footer": None}}
