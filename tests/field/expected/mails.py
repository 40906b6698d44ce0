"""What mails say, and to whom (behaviours.md B4, B5, C3, C5)."""

from __future__ import annotations

from schemas.mail import LANGUAGES, read_mail
from sinks.email.localize import choose_locale
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
    mail = played.mail("subscription-canceled")
    if "canceled_at" not in mail.data:
        return  # on the real store the erasure, 30 days later, has emptied the mail
    assert mail.data["reason"] == "payment_disputed"
    assert "disputed" in _texts(mail)[1]


@case("92")
def a_renewal_that_is_invoiced_is_not_charged(played: Played) -> None:
    """The second customer's collection is paused, and nothing is announced."""
    (mail,) = (mail for mail in played.mails if mail.template == "renewal-reminder")
    assert mail.customer_id == "cus_fb92"
    german, english, *_ = _texts(mail)
    assert "We will send you an invoice, due on" in english
    assert "Wir senden Ihnen eine Rechnung, fällig am" in german


@case("59")
def mails_go_to_the_address_of_now(played: Played) -> None:
    assert played.customer("cus_fb59").email == "right.fb59@mail.example"
    assert played.templates().count("payment-receipt") == 1


@case("72")
def a_trial_that_is_set_to_end_is_not_charged(played: Played) -> None:
    """The mail is worded by the row when it leaves (tests/contract/sinks/email/test_checks.py)."""
    assert played.subscription("sub_fb72").cancel_at_period_end
    mail = played.mail("trial-ending")
    ending = FieldMail(mail.key, mail.template, mail.customer_id, mail.recipient, {**mail.data, "will_end": True})
    german, english, *_ = _texts(ending)
    assert "nothing is charged" in english
    assert "your payment method is charged" not in english
    assert "es wird nichts abgebucht" in german


@case("73")
def the_second_preferred_language_is_used(played: Played) -> None:
    languages = {  # as in a system that has only these two
        customer_id: choose_locale([played.customer(customer_id).locale], frozenset({"de", "en"})).language
        for customer_id in ("cus_fb73", "cus_fb73R", "cus_fb73Z")
    }
    assert languages == {"cus_fb73": "de", "cus_fb73R": "en", "cus_fb73Z": "en"}
    assert {mail.data["name"] for mail in played.mails} == {"Name cus_fb73", "ليلى حداد", "陳怡君 🦊"}


@case("74")
def odd_addresses_are_kept_as_they_are(played: Played) -> None:
    """The dispatcher sends each once, or marks it as failed (tests/unit/sinks/email/test_addresses.py)."""
    assert played.templates() == ["subscription-welcome"] * 8
    assert played.dead == []


@case("30")
def who_pays_by_hand_hears_that_the_invoice_is_overdue(played: Played) -> None:
    mail = played.mail("invoice-overdue")
    assert mail.data["amount"] == {"amount": 90000, "currency": "eur"}
    german, english, *_ = _texts(mail)
    assert "We have not received your payment of this invoice yet" in english
    assert "noch nicht bei uns eingegangen" in german


@case("26")
def a_trial_that_ended_early_is_not_announced(played: Played) -> None:
    assert played.subscription("sub_fb26").status == "active"
    assert not {"trial-ending", "trial-reminder"} & set(played.templates())


@case("85")
def an_invoice_in_mid_period_fails_once(played: Played) -> None:
    assert played.templates().count("payment-failed") == 1
    assert played.mail("payment-receipt").data["amount"] == {"amount": 10000, "currency": "eur"}
    assert played.organization("cus_fb85").next_billing_at == played.subscription("sub_fb85").current_period_end


@case("39")
def the_first_invoice_of_a_trial_gets_no_receipt(played: Played) -> None:
    assert played.subscription("sub_fb39").status == "trialing"
    assert "payment-receipt" not in played.templates()
    assert (played.payment("in_fb39z").amount, played.payment("in_fb39z").status) == (0, "succeeded")


@case("40")
def a_coupon_of_100_percent(played: Played) -> None:
    assert (played.organization("cus_fb40").plan, played.organization("cus_fb40").has_access) == ("pro", True)
    assert "payment-receipt" not in played.templates()
    assert (played.payment("in_fb40z").amount, played.payment("in_fb40z").status) == (0, "succeeded")
