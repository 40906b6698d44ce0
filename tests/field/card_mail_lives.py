"""Further lives as in mail_lives.py: cards, receipts, and repeated announcements."""

from __future__ import annotations

from local.stripe.builder import Price
from tests.field.lives import paid, sub
from tests.field.mail_lives import WELCOME, MailLife, begun, customer, default, ended, method, upcoming
from tests.kits.rulekit import DAY, NOW


def cards() -> list[MailLife]:
    """A card of February 2027 expires 45 days after NOW: its notices are due on days 15 and 38."""
    first = [customer(0, "created"), method(0, "attached"), begun()]
    notice = {**WELCOME, "card-expiring": 1}
    return [
        MailLife("the default expires", 16, first, notice, {"card-expiring": ["Visa card ending in 4242"]}),
        MailLife(
            "the subscription's own card expires behind a new default",
            16,
            [
                customer(0, "created"),
                method(0, "attached"),
                begun(default_payment_method="pm_1"),
                method(1, "attached", "pm_2", (2031, 1)),
                default(1, "pm_2", "pm_1"),
            ],
            notice,
        ),
        MailLife(
            "the old default expires, which nothing is charged to",
            16,
            [*first, method(1, "attached", "pm_2", (2031, 1)), default(1, "pm_2", "pm_1")],
            WELCOME,
        ),
        MailLife(
            "the card of somebody who has left expires",
            16,
            [*first, ended(9, "payment_failed")],
            {"subscription-canceled": 1},
        ),
        MailLife(
            "the card expires after the end that is set",
            16,
            [*first, sub(3, "active", previous={"cancel_at": None}, cancel_at=NOW + 30 * DAY)],
            WELCOME,
        ),
        MailLife(
            "the card of somebody with a free plan expires",
            16,
            [*first[:2], begun(price=Price("price_free", 0, "eur")), default(0, "pm_1", None)],
            WELCOME,
        ),
        MailLife(
            "the default is removed from a free plan",
            3,
            [*first[:2], begun(price=Price("price_free", 0, "eur")), method(2, "detached", expiry=(2027, 2))],
            WELCOME,
        ),
        MailLife(
            "the card of somebody who pays invoices by hand",
            16,
            [customer(0, "created"), method(0, "attached"), begun(collection_method="send_invoice")],
            WELCOME,
        ),
        MailLife(
            "the default is removed, and the subscription has its own",
            3,
            [
                customer(0, "created"),
                method(0, "attached", expiry=(2031, 1)),
                method(0, "attached", "pm_2", (2031, 2)),
                default(1, "pm_1", "pm_2"),
                begun(default_payment_method="pm_2"),
                method(2, "detached", expiry=(2031, 1)),
            ],
            WELCOME,
        ),
        MailLife(
            "the default is removed after the end",
            12,
            [
                customer(0, "created"),
                method(0, "attached", expiry=(2031, 1)),
                begun(),
                ended(9, "payment_failed"),
                method(10, "detached", expiry=(2031, 1)),
            ],
            {"subscription-canceled": 1},
        ),
        MailLife(
            "a direct debit is removed",
            3,
            [
                customer(0, "created"),
                method(0, "attached", "pm_3", type="sepa_debit", card=None, sepa_debit={"last4": "3000"}),
                begun(),
                method(2, "detached", "pm_3", type="sepa_debit", card=None, sepa_debit={"last4": "3000"}),
            ],
            {**WELCOME, "payment-method-detached": 1},
            {"payment-method-detached": ["The payment method that paid for your subscription was removed"]},
            {"payment-method-detached": ["card"]},
        ),
    ]


def receipts() -> list[MailLife]:
    taxes = [{"amount": 463, "type": "tax_rate_details", "taxability_reason": "standard_rated"}]
    return [
        MailLife(
            "a receipt with its tax",
            1,
            [begun(), paid(0, total_taxes=taxes)],
            {**WELCOME, "payment-receipt": 1},
            {"payment-receipt": ["Amount: €29.00", "Tax included: €4.63", "Plan: Pro"]},
        ),
        MailLife(
            "a receipt of an invoice that credit paid in part",
            1,
            [begun(), paid(0, amount=900, total=2900, total_taxes=taxes)],
            {**WELCOME, "payment-receipt": 1},
            {"payment-receipt": ["Amount: €9.00"]},
            {"payment-receipt": ["Tax"]},
        ),
        MailLife(
            "a receipt in dinars",
            1,
            [paid(0, subscription=None, reason="manual", price=Price("price_x", 12340, "kwd"))],
            {"payment-receipt": 1},
            {"payment-receipt": ["KWD 12.340"]},
        ),
        MailLife(
            "a receipt to an address that was corrected since, in the customer's language",
            1,
            [
                begun(),
                customer(0, "created", email="old@example.com"),
                paid(0, email="old@example.com"),
                customer(
                    1,
                    "updated",
                    {"email": "old@example.com", "preferred_locales": []},
                    email="new@example.com",
                    preferred_locales=["zh", "fr-CA"],
                ),
            ],
            {**WELCOME, "payment-receipt": 1},
            {"payment-receipt": ["to: new@example.com", "Reçu de 29,00"]},
        ),
        MailLife(
            "a receipt to somebody who has chosen another language since",
            2,
            [
                begun(),
                customer(0, "created", preferred_locales=["de"]),
                paid(0),
                customer(1, "updated", {"preferred_locales": ["de"]}, preferred_locales=["es"]),
            ],
            {**WELCOME, "payment-receipt": 1},
            {"payment-receipt": ["Recibo de 29,00"]},
        ),
        MailLife(
            "a second event of the same upcoming invoice",
            25,
            [begun(), upcoming(22), upcoming(23)],
            {**WELCOME, "renewal-reminder": 2},
        ),
    ]
