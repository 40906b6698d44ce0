"""What the operator's mails say, in any currency, mode and account (behaviours.md C9, C10)."""

from __future__ import annotations

import pytest

from local.stripe import payments as pay
from local.stripe.builder import StripeEvents
from schemas.mail import LANGUAGES, read_mail
from sinks.email.rendering import Brand, Templates
from tests.kits.rulekit import NOW, RulesWorld

TEMPLATES = Templates(Brand(product="Acme", app_url="https://app.example.com"))
SHOWN = {
    "eur": {"en": "€5,000.00", "de": "5.000,00 €", "es": "5.000,00 €", "fr": "5\u202f000,00 €", "pt": "€ 5.000,00"},
    "jpy": {"en": "¥500,000", "de": "500.000 ¥", "es": "500.000 JPY", "fr": "500\u202f000 JPY", "pt": "JP¥ 500.000"},
    "kwd": {"en": "KWD 500.000", "de": "500,000 KWD", "es": "500,000 KWD", "fr": "500,000 KWD", "pt": "KWD 500,000"},
    "xyz": {
        "en": "500000 XYZ (minor units)",
        "de": "500000 XYZ (in der kleinsten Einheit)",
        "es": "500000 XYZ (en la unidad mínima)",
        "fr": "500000 XYZ (dans la plus petite unité)",
        "pt": "500000 XYZ (na menor unidade)",
    },
}
"""500,000 minor units. No list of currencies has the last one."""


@pytest.mark.parametrize("account", ["", "acct_9"])
@pytest.mark.parametrize("livemode", [True, False])
@pytest.mark.parametrize("currency", SHOWN)
def test_C10_operator_mails_name_amount_mode_and_account(account: str, livemode: bool, currency: str) -> None:
    there = StripeEvents(account=account or None, livemode=livemode)
    disputed = pay.dispute(there, amount=500_000, currency=currency, due_by=NOW + 10 * 86_400, created=NOW)
    events = [
        there.event("charge.dispute.created", disputed, NOW + 1),
        there.event("charge.dispute.closed", {**disputed, "status": "lost"}, NOW + 2),
        there.event("payout.failed", pay.payout(there, amount=500_000, currency=currency), NOW + 3),
    ]
    mails = {mail.template: mail for mail in RulesWorld().apply(*events).emails.values()}
    assert mails.keys() == {"operator-alert", "dispute-opened", "dispute-lost"}
    place = [part for part in (account, "" if livemode else "test") if part]
    for template, mail in mails.items():
        page = ["payouts", "po_1"] if template == "operator-alert" else ["disputes", "dp_1"]
        assert mail.data["link"] == "/".join(["https://dashboard.stripe.com", *place, *page])
        for language in LANGUAGES:
            text = TEMPLATES.render(template, read_mail(template, mail.data), [language]).text
            plain = " ".join(text.replace("\xa0", " ").split())
            assert " ".join(SHOWN[currency][language].split()) in plain, plain
            assert ("acct_9" in plain) == bool(account)
            assert mail.data["link"] in plain
