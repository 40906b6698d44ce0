"""Further lives as in mail_lives.py: what announces a renewal, and what has changed since."""

from __future__ import annotations

from local.stripe.builder import Json, Price
from tests.field.lives import MAKE, PRO, STARTER, failed, sub
from tests.field.mail_lives import WELCOME, MailLife, begun, customer, trial, upcoming, with_items
from tests.kits.rulekit import DAY, NOW

REMINDED = {**WELCOME, "renewal-reminder": 1}


def of_tiers(*quantities: int) -> Json:
    """The lines of one price, one for each tier."""
    lines: list[Json] = []
    for number, quantity in enumerate(quantities):
        (line,) = MAKE.invoice(None, price=PRO, created=NOW)["lines"]["data"]
        lines.append(line | {"id": f"il_{number}", "quantity": quantity})
    return {"object": "list", "data": lines, "has_more": False, "url": "/v1/invoices/upcoming/lines"}


def differing() -> list[MailLife]:
    """The announced invoice bills other items than the subscription has, and is right all the same."""
    tagged: Json = {"metadata": {"team": "a"}}
    return [
        MailLife(
            "renewal at which a schedule changes the price",
            25,
            [begun(price=STARTER), upcoming(23)],
            REMINDED,
            {"renewal-reminder": ["\u20ac29.00"]},
        ),
        MailLife(
            "renewal at which a schedule changes the price, of a subscription that was tagged since",
            25,
            [begun(price=STARTER), upcoming(23), sub(24, "active", previous={"metadata": {}}, price=STARTER, **tagged)],
            REMINDED,
            once_late=frozenset({"renewal-reminder"}),
        ),
        MailLife(
            "renewal at which a schedule changes the seats, which are changed at once after all",
            25,
            [begun(), upcoming(23, lines=of_tiers(5)), sub(24, "active", previous={"items": {}}, quantity=7)],
            WELCOME,
        ),
        MailLife(
            "renewal of seats in graduated tiers",
            25,
            [begun(quantity=8), upcoming(23, lines=of_tiers(5, 3))],
            REMINDED,
        ),
        MailLife(
            "renewal of seats in graduated tiers, as they have become since",
            25,
            [begun(), upcoming(23, lines=of_tiers(5, 3)), sub(24, "active", previous={"items": {}}, quantity=8)],
            REMINDED,
        ),
    ]


def renewals() -> list[MailLife]:
    to_end: Json = {"cancel_at_period_end": True, "canceled_at": NOW + 24 * DAY, "cancel_at": NOW + 30 * DAY}
    return [
        MailLife("renewal of a running subscription", 25, [begun(), upcoming(23)], {**WELCOME, "renewal-reminder": 1}),
        MailLife(
            "renewal announced, then set to end with the period",
            25,
            [begun(), upcoming(23), sub(24, "active", previous={"cancel_at_period_end": False}, **to_end)],
            WELCOME,
        ),
        MailLife(
            "renewal announced, then set to end at the time of the renewal",
            25,
            [begun(), upcoming(23), sub(24, "active", previous={"cancel_at": None}, cancel_at=NOW + 30 * DAY)],
            WELCOME,
        ),
        MailLife(
            "renewal of a subscription that ends after another period",
            25,
            [begun(), upcoming(23), sub(24, "active", previous={"cancel_at": None}, cancel_at=NOW + 60 * DAY)],
            {**WELCOME, "renewal-reminder": 1},
        ),
        MailLife(
            "renewal announced for a price that has changed since",
            25,
            [begun(price=STARTER), upcoming(23, price=STARTER), sub(24, "active", previous=MAKE.price_change(STARTER))],
            {**WELCOME, "plan-changed": 1},
        ),
        MailLife(
            "renewal announced for a number of seats that has changed since",
            25,
            [begun(), upcoming(23), sub(24, "active", previous={"items": {}}, quantity=7)],
            WELCOME,
        ),
        MailLife(
            "renewal with metered usage",
            25,
            [
                begun(items=with_items((Price("price_usage", 5), 0, "metered"), (PRO, 1, "licensed"))),
                upcoming(23),
            ],
            {**WELCOME, "renewal-reminder": 1},
        ),
        MailLife(
            "renewal of an unpaid subscription",
            25,
            [
                begun(),
                failed(1, attempts=4, retry=None),
                sub(9, "unpaid", previous={"status": "past_due"}),
                upcoming(23),
            ],
            {**WELCOME, "payment-final": 1, "payment-reminder": 1},
            {"payment-final": ["we will not try again"]},
            {"payment-final": ["keep your access"]},
        ),
        MailLife(
            "renewal while the collection is paused",
            25,
            [
                begun(),
                upcoming(23),
                sub(24, "active", previous={"pause_collection": None}, pause_collection={"behavior": "void"}),
            ],
            WELCOME,
        ),
        MailLife(
            "first payment after a trial is no renewal",
            5,
            [trial(), upcoming(3, next_attempt=NOW + 14 * DAY)],
            {**WELCOME, "renewal-reminder": 1},
            {"renewal-reminder": ["Your subscription starts on", "Your free trial ends", "Starts on:"]},
            {"renewal-reminder": ["renews"]},
        ),
        MailLife(
            "renewal by an invoice that is sent",
            25,
            [
                begun(collection_method="send_invoice"),
                upcoming(23, collection_method="send_invoice", due_date=NOW + 60 * DAY),
            ],
            {**WELCOME, "renewal-reminder": 1},
            {"renewal-reminder": ["We will send you an invoice, due on"]},
            {"renewal-reminder": ["charged"]},
        ),
        MailLife(
            "renewal without any payment method",
            25,
            [customer(0, "created"), begun(), upcoming(23)],
            {**WELCOME, "renewal-reminder": 1},
            {"renewal-reminder": ["There is no payment method on file"]},
            {"renewal-reminder": ["There is nothing to do"]},
        ),
    ]
