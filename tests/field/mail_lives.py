"""Billing lives and the mails that must leave at their end: what they say, and what they must not say.

Each is played in many orders, with repeats, and then the mails are checked and composed as the dispatcher does
(tests/unit/test_mail_lives.py). `sent` names every mail that leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from local.stripe import payments as pay
from local.stripe.builder import Json, Price
from schemas.mail import DUNNING_MAILS
from tests.field.lives import MAKE, PRO, failed, inv, of, paid, sub
from tests.kits.rulekit import DAY, NOW

PRO_YEAR = Price("price_pro_yearly", 29000, "eur", "year")
WELCOME = {"subscription-welcome": 1}


@dataclass(frozen=True, slots=True)
class MailLife:
    """The mails that leave on `day` after everything has happened, days after NOW."""

    name: str
    day: int
    events: Sequence[Json]
    sent: Mapping[str, int]
    says: Mapping[str, Sequence[str]] = field(default_factory=dict)
    never: Mapping[str, Sequence[str]] = field(default_factory=dict)
    age_days: int = 0
    """How long ago the mails were queued."""
    once_late: frozenset[str] = DUNNING_MAILS
    """Mails that need not leave in another order: their event is out of date when it arrives."""


def begun(**more: Any) -> Json:
    return sub(0, "active", "created", **more)


def upcoming(day: int, **more: Any) -> Json:
    return inv(day, "upcoming", **{"id_": None, "attempts": 0, "next_attempt": NOW + 30 * DAY, **more})


def customer(day: int, kind: str, previous: Json | None = None, **more: Any) -> Json:
    made = MAKE.customer("cus_1", created=NOW, **more)
    return MAKE.event(f"customer.{kind}", made, NOW + day * DAY + 5, previous=previous, id_=f"evt_cus_{kind}_{day}")


def default(day: int, method: str | None, former: str | None = None) -> Json:
    settings = {"custom_fields": None, "default_payment_method": method, "footer": None}
    previous = {"invoice_settings": {"default_payment_method": former}}
    return customer(day, "updated", previous, invoice_settings=settings)


def method(day: int, kind: str, id_: str = "pm_1", expiry: tuple[int, int] = (2027, 2), **more: Any) -> Json:
    made = pay.payment_method(MAKE, id_, expiry=expiry, created=NOW + day * DAY, **more)
    previous = {"customer": "cus_1"} if kind == "detached" else None
    if kind == "detached":
        made["customer"] = None
    event = f"payment_method.{kind}"
    return MAKE.event(event, made, NOW + day * DAY + 9, previous=previous, id_=f"evt_{id_}_{kind}_{day}")


def trial(kind: str = "created", day: int = 0, previous: Json | None = None, **more: Any) -> Json:
    return sub(day, "trialing", kind, previous, **{"trial_end": NOW + 14 * DAY, **more})


def ended(day: int, reason: str | None = "cancellation_requested", **more: Any) -> Json:
    details = {"comment": None, "feedback": None, "reason": reason}
    more = {"canceled_at": NOW + day * DAY, "ended_at": NOW + day * DAY, "cancellation_details": details, **more}
    return sub(day, "canceled", "deleted", **more)


def ends_behavior(missing: str) -> Json:
    return {"trial_settings": {"end_behavior": {"missing_payment_method": missing}}}


def invoice_updated(day: int, remaining: int, **more: Any) -> Json:
    previous = {"amount_remaining": 2900}
    made = MAKE.invoice("in_1", created=NOW + 60, price=PRO, **{"amount_remaining": remaining, **more})
    return MAKE.event("invoice.updated", made, NOW + day * DAY + 90, previous=previous, id_=f"evt_in_1_updated_{day}")


def with_items(*parts: tuple[Price, int, str]) -> Json:
    """The list of items: price, quantity, usage type."""
    data: list[Json] = []
    for price, quantity, usage in parts:
        made: Json = MAKE.subscription(price=price, start=NOW)["items"]["data"][0]
        made |= {"id": f"si_{price.id}", "quantity": quantity}
        made["price"]["recurring"]["usage_type"] = usage
        data.append(made)
    return {"object": "list", "data": data, "has_more": False, "url": "/v1/subscription_items"}


def quarterly(price: Price) -> Json:
    found = with_items((price, 1, "licensed"))
    found["data"][0]["price"]["recurring"]["interval_count"] = 3
    return found


def trials() -> list[MailLife]:
    both_notices = {**WELCOME, "trial-reminder": 1, "trial-ending": 1}
    both = ("trial-reminder", "trial-ending")
    soon = trial("trial_will_end", 11)

    def says(*texts: str) -> dict[str, Sequence[str]]:
        return dict.fromkeys(both, texts)

    return [
        MailLife(
            "trial that goes on with a payment",
            12,
            [trial(), customer(0, "created"), method(0, "attached", expiry=(2030, 1)), soon],
            both_notices,
            says("payment method is charged", "€29.00", "monthly"),
            says("no payment method on file"),
        ),
        MailLife(
            "trial that was converted early",
            12,
            [trial(), soon, sub(12, "active", previous={"status": "trialing", "trial_end": NOW + 14 * DAY}), paid(12)],
            {**WELCOME, "payment-receipt": 1},
        ),
        MailLife(
            "trial that ends without a card",
            12,
            [
                customer(0, "created"),
                trial(**ends_behavior("cancel")),
                trial("trial_will_end", 11, **ends_behavior("cancel")),
            ],
            both_notices,
            says("Otherwise your subscription ends then"),
            says("is charged. To leave"),
        ),
        MailLife(
            "trial that pauses without a card",
            12,
            [
                customer(0, "created"),
                trial(**ends_behavior("pause")),
                trial("trial_will_end", 11, **ends_behavior("pause")),
            ],
            both_notices,
            says("Otherwise your subscription is paused then"),
        ),
        MailLife(
            "trial without a card whose invoice is made all the same",
            12,
            [customer(0, "created"), trial(), soon],
            both_notices,
            says("There is no payment method on file yet: please add one"),
            says("your payment method is charged"),
        ),
        MailLife(
            "trial whose card was added after the notice was queued",
            12,
            [
                customer(0, "created"),
                trial(**ends_behavior("cancel")),
                trial("trial_will_end", 11, **ends_behavior("cancel")),
                method(11, "attached", expiry=(2030, 1)),
            ],
            both_notices,
            says("your payment method is charged"),
        ),
        MailLife(
            "trial that is invoiced",
            12,
            [trial(collection_method="send_invoice"), trial("trial_will_end", 11, collection_method="send_invoice")],
            both_notices,
            says("we send you an invoice"),
            says("your payment method is charged"),
        ),
        MailLife(
            "trial of which no event names the collection method",
            12,
            [trial(collection_method=None), trial("trial_will_end", 11, collection_method=None)],
            both_notices,
            never=says("is charged", "invoice", "After that"),
        ),
        MailLife(
            "trial of a free plan",
            12,
            [trial(price=Price("price_free", 0)), trial("trial_will_end", 11, price=Price("price_free", 0))],
            both_notices,
            says("free of charge"),
            says("charged. To leave", "€0.00"),
        ),
        MailLife(
            "trial whose collection is paused",
            12,
            [
                trial(),
                soon,
                trial("updated", 12, {"pause_collection": None}, pause_collection={"behavior": "keep_as_draft"}),
            ],
            both_notices,
            never=says("is charged"),
        ),
        MailLife(
            "trial that was canceled, and the cancellation taken back",
            12,
            [
                trial(),
                trial("updated", 3, {"cancel_at_period_end": False}, cancel_at_period_end=True),
                trial("updated", 4, {"cancel_at_period_end": True}),
                soon,
            ],
            both_notices,
            says("payment method is charged"),
            says("You have canceled"),
        ),
        MailLife(
            "trial that was canceled after the notice was queued",
            12,
            [trial(), soon, trial("updated", 12, {"cancel_at_period_end": False}, cancel_at_period_end=True)],
            both_notices,
            says("You have canceled", "nothing is charged"),
            says("€29.00"),
        ),
        MailLife(
            "trial that was extended",
            12,
            [
                trial(),
                soon,
                trial("updated", 12, {"trial_end": NOW + 14 * DAY}, trial_end=NOW + 30 * DAY),
            ],
            WELCOME,
        ),
        MailLife(
            "trial of five seats",
            12,
            [trial(quantity=5), trial("trial_will_end", 11, quantity=5)],
            both_notices,
            {
                **says("Price per seat: €29.00", "Seats: 5"),
                "subscription-welcome": ["Price per seat: €29.00", "Seats: 5"],
            },
        ),
        MailLife(
            "trial of a yearly price in yen",
            12,
            [
                trial(price=Price("price_pro_yearly", 5000, "jpy", "year")),
                trial("trial_will_end", 11, price=Price("price_pro_yearly", 5000, "jpy", "year")),
            ],
            both_notices,
            says("¥5,000", "yearly"),
        ),
        MailLife(
            "trial with a fee at its start",
            2,
            [trial(), paid(0, amount=9900, reason="subscription_create", price=Price("price_setup", 9900))],
            {**WELCOME, "payment-receipt": 1},
            {"subscription-welcome": ["Your plan costs nothing until"]},
            {"subscription-welcome": ["Nothing is charged"]},
        ),
    ]


def starts() -> list[MailLife]:
    checkout = of("checkout.session.completed", 0, MAKE.checkout_session(created=NOW, plan="pro"))
    usage = Price("price_pro_monthly", 5)
    return [
        MailLife(
            "welcome after checkout and subscription",
            1,
            [checkout, begun()],
            WELCOME,
            {"subscription-welcome": ["your Pro plan is active", "Price: €29.00", "Billed: monthly"]},
        ),
        MailLife(
            "subscription that ended before its welcome left",
            1,
            [checkout, begun(), ended(1)],
            {"subscription-canceled": 1, "churn-survey": 1},
        ),
        MailLife(
            "first payment that never came",
            2,
            [
                sub(0, "incomplete", "created"),
                failed(0, retry=None, reason="subscription_create"),
                sub(1, "incomplete_expired", previous={"status": "incomplete"}),
                inv(1, "voided", status="void", reason="subscription_create"),
            ],
            {},
        ),
        MailLife(
            "welcome to a plan by usage names no price",
            1,
            [begun(items=with_items((usage, 0, "metered")))],
            WELCOME,
            never={"subscription-welcome": ["Price", "€"]},
        ),
        MailLife(
            "welcome to a quarterly plan",
            1,
            [begun(items=quarterly(PRO))],
            WELCOME,
            {"subscription-welcome": ["every 3 months"]},
        ),
    ]
