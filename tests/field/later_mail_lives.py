"""Further lives as in mail_lives.py: failed payments, ends, and changes of plan."""

from __future__ import annotations

from local.stripe import payments as pay
from local.stripe.builder import Json
from tests.field.lives import MAKE, PRO, STARTER, USER, failed, inv, of, paid, sub
from tests.field.mail_lives import (
    PRO_YEAR,
    WELCOME,
    MailLife,
    begun,
    customer,
    ended,
    invoice_updated,
    quarterly,
    with_items,
)
from tests.kits.rulekit import DAY, NOW

PAST_DUE = sub(1, "past_due", previous={"status": "active"})


def dunning() -> list[MailLife]:
    tries = [failed(1), PAST_DUE, failed(3, 2), failed(6, 3), failed(9, 4)]
    return [
        MailLife(
            "first decline",
            2,
            [begun(), failed(1), PAST_DUE],
            {**WELCOME, "payment-failed": 1},
            {"payment-failed": ["We could not collect €29.00", "your access stays as it is", "We try again on"]},
        ),
        MailLife(
            "part of the invoice was paid before the reminder",
            5,
            [begun(), failed(1), PAST_DUE, invoice_updated(2, 1200, amount_paid=1700)],
            {**WELCOME, "payment-failed": 1, "payment-reminder": 1},
            {"payment-failed": ["€12.00"], "payment-reminder": ["€12.00 is still open"]},
            {"payment-failed": ["€29.00"], "payment-reminder": ["€29.00"]},
        ),
        MailLife(
            "a credit note covers what was owed",
            5,
            [
                begun(),
                failed(1),
                PAST_DUE,
                of(
                    "credit_note.created",
                    2,
                    pay.credit_note(MAKE, created=NOW + 2 * DAY, invoice="in_1", pre_payment_amount=2900),
                ),
            ],
            WELCOME,
        ),
        MailLife(
            "voided after the failure",
            5,
            [begun(), failed(1), PAST_DUE, inv(2, "voided", status="void")],
            WELCOME,
        ),
        MailLife(
            "written off after the failure",
            5,
            [begun(), failed(1), PAST_DUE, inv(2, "marked_uncollectible", status="uncollectible")],
            WELCOME,
        ),
        MailLife(
            "paid at last, and refunded",
            5,
            [
                begun(),
                failed(1),
                PAST_DUE,
                paid(2),
                of(
                    "invoice_payment.paid",
                    2,
                    pay.invoice_payment(MAKE, "inpay_1", invoice="in_1", payment_intent="pi_1"),
                ),
                of("charge.succeeded", 2, pay.charge(MAKE, "ch_1", invoice="in_1")),
                of("charge.refunded", 3, pay.charge(MAKE, "ch_1", invoice="in_1", refunded=2900)),
            ],
            {**WELCOME, "payment-receipt": 1},
        ),
        MailLife(
            "plan changed while the invoice is owed",
            5,
            [
                begun(price=STARTER),
                failed(1, price=STARTER),
                sub(1, "past_due", previous={"status": "active"}, price=STARTER),
                sub(2, "past_due", previous=MAKE.price_change(STARTER)),
            ],
            {**WELCOME, "payment-failed": 1, "payment-reminder": 1, "plan-changed": 1},
            {"payment-reminder": ["€9.00 is still open"]},
            {"payment-reminder": ["€29.00"]},
        ),
        MailLife(
            "four declines",
            10,
            [begun(), *tries],
            {**WELCOME, "payment-failed": 1, "payment-reminder": 1, "payment-urgent": 1, "payment-final": 1},
            {
                "payment-urgent": ["your access is at risk", "you can lose your access"],
                "payment-final": ["This is our last notice", "To keep your access"],
            },
            {"payment-final": ["we will not try again", "subscription ends"]},
        ),
        MailLife(
            "last retry announced, and its date has passed",
            13,
            [begun(), *tries],
            {**WELCOME, "payment-failed": 1, "payment-reminder": 1, "payment-urgent": 1, "payment-final": 1},
            {"payment-final": ["This is our last notice"]},
            {"payment-final": ["we will not try again", "Next attempt"]},
        ),
        MailLife(
            "Stripe has given up, and the grace time is over",
            20,
            [begun(), failed(1), PAST_DUE, failed(4, 2), failed(9, 3, retry=None)],
            {**WELCOME, "payment-failed": 1, "payment-reminder": 1, "payment-urgent": 1, "payment-final": 1},
            {"payment-final": ["we will not try again", "Please pay"]},
            {
                "payment-failed": ["access"],
                "payment-urgent": ["access"],
                "payment-final": ["access"],
            },
        ),
        MailLife(
            "mails of an outage: only the last step is left",
            15,
            [begun(), failed(1), PAST_DUE, failed(4, 2), failed(9, 3, retry=None)],
            {"subscription-welcome": 1, "payment-final": 1},
            age_days=3,
        ),
        MailLife(
            "a loose invoice costs no access",
            6,
            [
                failed(1, subscription=None, reason="manual"),
                failed(4, 2, subscription=None, reason="manual"),
            ],
            {"payment-failed": 1, "payment-reminder": 1, "payment-urgent": 1},
            {"payment-urgent": ["Urgent: €29.00 is unpaid"]},
            {"payment-urgent": ["access"], "payment-failed": ["access"]},
        ),
        MailLife(
            "an invoice to be paid by hand, tried twice before it is due",
            6,
            [
                begun(collection_method="send_invoice"),
                failed(1, retry=None, collection_method="send_invoice", due_date=NOW + 30 * DAY),
                failed(2, 2, retry=None, collection_method="send_invoice", due_date=NOW + 30 * DAY),
            ],
            {**WELCOME, "payment-failed": 1},
            never={"payment-failed": ["We try again"]},
        ),
        MailLife(
            "an invoice to be paid by hand, tried in vain after it is due",
            41,
            [
                begun(collection_method="send_invoice"),
                *(
                    failed(day, attempts, retry=None, collection_method="send_invoice", due_date=NOW + 30 * DAY)
                    for day, attempts in ((31, 1), (33, 2), (40, 4))
                ),
            ],
            {**WELCOME, "payment-failed": 1, "payment-reminder": 1, "payment-urgent": 1, "payment-final": 1},
            {"payment-urgent": ["The invoice is still not paid."], "payment-final": ["our last notice", "is unpaid"]},
            {"payment-urgent": ["We have tried"], "payment-final": ["All attempts", "could not be collected"]},
        ),
        MailLife(
            "an overdue invoice that was paid in part",
            35,
            [
                begun(collection_method="send_invoice"),
                inv(31, "overdue", collection_method="send_invoice", due_date=NOW + 30 * DAY, amount_remaining=900),
            ],
            {**WELCOME, "invoice-overdue": 1},
            {"invoice-overdue": ["Your invoice over €9.00 is overdue"]},
        ),
        MailLife(
            "confirmation asked for, given, and declined afterwards",
            3,
            [begun(), inv(1, "payment_action_required"), failed(2), sub(2, "past_due", previous={"status": "active"})],
            {**WELCOME, "payment-action-required": 1, "payment-failed": 1},
        ),
        MailLife(
            "two invoices fail",
            33,
            [
                begun(),
                failed(1),
                PAST_DUE,
                failed(31, id_="in_2", created=NOW + 30 * DAY),
                paid(32, created=NOW + 60),
            ],
            {**WELCOME, "payment-failed": 1, "payment-receipt": 1},
        ),
    ]


def ends() -> list[MailLife]:
    user = USER
    second: Json = {"id_": "sub_2", "start": NOW + 9 * DAY, "latest_invoice": "in_2"}
    return [
        MailLife(
            "ended as asked for",
            41,
            [begun(), ended(40)],
            {"subscription-canceled": 1, "churn-survey": 1},
            {
                "subscription-canceled": [
                    "Your Pro subscription was canceled. It ended on February 24, 2027",
                    "kept until",
                ],
                "churn-survey": ["Your subscription has ended"],
            },
            {"churn-survey": ["You have canceled"]},
        ),
        MailLife(
            "ended because it was not paid",
            20,
            [begun(), failed(1), PAST_DUE, ended(19, "payment_failed")],
            {"subscription-canceled": 1},
            {"subscription-canceled": ["because its payment could not be collected"]},
        ),
        MailLife(
            "upgraded by a second subscription, and the first one ended",
            11,
            [begun(price=STARTER), sub(9, "active", "created", **second), ended(10, price=STARTER)],
            {"subscription-welcome": 1, "subscription-canceled": 1},
            never={"subscription-canceled": ["erased"]},
        ),
        MailLife(
            "came back as another customer before the mails left",
            41,
            [
                customer(0, "created", **user),
                begun(**user),
                ended(40, **user),
                sub(40, "active", "created", id_="sub_2", customer="cus_2", start=NOW + 40 * DAY, **user),
            ],
            {"subscription-welcome": 1, "subscription-canceled": 1},
            never={"subscription-canceled": ["erased"]},
        ),
        MailLife(
            "left, and is asked back",
            16,
            [begun(), ended(1)],
            {"subscription-canceled": 1, "churn-survey": 1, "win-back": 1},
            {"win-back": ["It has been a while since your Pro subscription ended"]},
        ),
        MailLife(
            "deleted with the subscription",
            6,
            [customer(0, "created"), begun(), ended(5), customer(5, "deleted")],
            {"subscription-canceled": 1},
        ),
        MailLife(
            "ended by a dispute",
            20,
            [begun(), ended(5, "payment_disputed")],
            {"subscription-canceled": 1},
            {"subscription-canceled": ["because its payment was disputed"]},
        ),
    ]


def plan_changes() -> list[MailLife]:
    return [
        MailLife(
            "from monthly to yearly",
            6,
            [begun(), sub(5, "active", previous=MAKE.price_change(PRO), price=PRO_YEAR)],
            {**WELCOME, "plan-changed": 1},
            {
                "plan-changed": [
                    "Your Pro plan has changed",
                    "The price of your Pro plan has changed.",
                    "Price: €290.00",
                    "Previous price: €29.00",
                    "Billed: yearly",
                    "Billed before: monthly",
                ]
            },
            {"plan-changed": ["from Pro to Pro", "limits", "New plan", "Previous plan"]},
        ),
        MailLife(
            "from monthly to quarterly",
            6,
            [begun(price=STARTER), sub(5, "active", previous=MAKE.price_change(STARTER), items=quarterly(PRO))],
            {**WELCOME, "plan-changed": 1},
            {"plan-changed": ["moved from Starter to Pro", "Billed: every 3 months", "Billed before: monthly"]},
        ),
        MailLife(
            "more seats and a larger plan",
            6,
            [begun(price=STARTER), sub(5, "active", previous=MAKE.price_change(STARTER), quantity=5)],
            {**WELCOME, "plan-changed": 1},
            {"plan-changed": ["Price per seat: €29.00", "Seats: 5"]},
        ),
        MailLife(
            "only more seats",
            6,
            [begun(), sub(5, "active", previous={"quantity": 1}, quantity=5)],
            WELCOME,
        ),
        MailLife(
            "only a discount",
            6,
            [begun(), sub(5, "active", previous={"discounts": []}, discounts=["di_1"])],
            WELCOME,
        ),
        MailLife(
            "there and back",
            8,
            [
                begun(price=STARTER),
                sub(5, "active", previous=MAKE.price_change(STARTER)),
                sub(6, "active", previous=MAKE.price_change(PRO), price=STARTER),
            ],
            {**WELCOME, "plan-changed": 2},
            once_late=frozenset({"plan-changed"}),
        ),
        MailLife(
            "changed, and then ended",
            8,
            [begun(price=STARTER), sub(5, "active", previous=MAKE.price_change(STARTER)), ended(7)],
            {"subscription-canceled": 1, "churn-survey": 1},
        ),
        MailLife(
            "to packages of seats",
            6,
            [
                begun(price=STARTER),
                sub(5, "active", previous=MAKE.price_change(STARTER), items=packages()),
            ],
            {**WELCOME, "plan-changed": 1},
            never={"plan-changed": ["Price: €29.00", "Price per seat"]},
        ),
    ]


def packages() -> Json:
    found = with_items((PRO, 35, "licensed"))
    found["data"][0]["price"]["transform_quantity"] = {"divide_by": 10, "round": "up"}
    return found
