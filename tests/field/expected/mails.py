"""What mails say, and to whom (behaviours.md B4, B5, C3, C5)."""

from __future__ import annotations

from schemas.mail import LANGUAGES, read_mail
from sinks.email.rendering import Brand, Templates
from tests.field.harness import FieldMail, Played, case

_TEMPLATES = Templates(Brand(product="Acme", app_url="https://app.example.com"))


def _texts(mail: FieldMail) -> list[str]:
    data = read_mail(mail.template, mail.data)
    texts = [_TEMPLATES.render(mail.template, data, [language]).text for language in sorted(LANGUAGES)]
    return [" ".join(text.split()) for text in texts]


@case("08")
def a_card_declined_at_checkout_gets_no_final_notice(played: Played) -> None:
    assert "payment-final" not in played.templates()
    assert played.templates().count("subscription-welcome") == 1
    assert played.templates().count("payment-receipt") == 1


@case("47")
def a_first_debit_that_fails_gets_no_final_notice(played: Played) -> None:
    assert "payment-final" not in played.templates()
    assert "subscription-welcome" not in played.templates()
    assert "payment-failed" in played.templates()


@case("86")
def the_first_invoice_of_a_quote_gets_no_final_notice(played: Played) -> None:
    assert "payment-final" not in played.templates()
    assert "payment-failed" in played.templates()


@case("45")
def who_did_not_pay_is_not_asked_why_they_left(played: Played) -> None:
    assert "churn-survey" not in played.templates()
    mail = played.mail("subscription-canceled")
    assert mail.data["reason"] == "payment_failed"
    assert all(mail.data["update_url"] in text for text in _texts(mail))


@case("81")
def who_disputed_is_neither_asked_nor_won_back(played: Played) -> None:
    assert not {"churn-survey", "win-back"} & set(played.templates())
    assert played.mail("subscription-canceled").data["reason"] == "payment_disputed"
    assert "disputed" in _texts(played.mail("subscription-canceled"))[1]


@case("92")
def a_renewal_that_is_invoiced_is_not_charged(played: Played) -> None:
    """The second customer's collection is paused, and nothing is announced."""
    (mail,) = (mail for mail in played.mails if mail.template == "renewal-reminder")
    assert mail.customer_id == "cus_fb92"
    german, english = _texts(mail)
    assert "We will send you an invoice, due on" in english
    assert "Wir senden Ihnen eine Rechnung, fällig am" in german
