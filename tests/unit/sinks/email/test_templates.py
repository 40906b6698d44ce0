"""Every mail renders in each language, with all of its data and with the required fields only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.mail import LANGUAGES, MAILS, OPERATOR_MAILS, OPTIONAL_MAILS, UnknownTemplate, read_mail
from sinks.email import rendering
from sinks.email.rendering import Brand, Rendered, Templates
from sinks.email.samples import SAMPLES

TEMPLATES = Templates(Brand(product="Acme & Sons", app_url="https://app.example.com"))


def _least(template: str) -> Mapping[str, Any]:
    fields = MAILS[template].model_fields
    return {name: value for name, value in SAMPLES[template].items() if fields[name].is_required()}


def _render(template: str, data: Mapping[str, Any], locale: str = "en") -> Rendered:
    return TEMPLATES.render(template, read_mail(template, data), [locale])


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _read(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    return page


def test_there_is_a_sample_and_a_file_for_every_mail() -> None:
    """A template missing in one language would fail only in production."""
    assert set(SAMPLES) == set(MAILS)
    folder = Path(rendering.__file__).parent / "templates"
    assert {language.name for language in folder.iterdir() if language.is_dir()} == LANGUAGES
    for language in LANGUAGES:
        assert {file.stem for file in (folder / language).iterdir()} == set(MAILS) | {"words"}
    assert set(MAILS) >= OPERATOR_MAILS | OPTIONAL_MAILS


@pytest.mark.parametrize("locale", sorted(LANGUAGES))
@pytest.mark.parametrize("template", sorted(MAILS))
@pytest.mark.parametrize("how_much", ["all", "least"])
def test_each_mail_renders(template: str, locale: str, how_much: str) -> None:
    """HTML and text render with a one-line subject and without unresolved placeholders."""
    mail = _render(template, SAMPLES[template] if how_much == "all" else _least(template), locale)
    assert mail.subject == mail.subject.strip()
    assert "\n" not in mail.subject
    assert 5 < len(mail.subject) < 120
    page = _read(mail.html)
    for text in (mail.subject, "".join(page.texts), mail.text):
        assert not re.search(r"\bNone\b|undefined|\{\{|\{%|\bnan\b", text)
    assert not re.search(r"<[a-z]+[ >]", mail.text)
    assert "&amp;" not in mail.text
    assert f'lang="{locale}"' in mail.html
    assert mail.subject in "".join(page.texts)
    assert all(link.startswith(("https://", "http://")) for link in page.links)
    assert max(len(line) for line in mail.text.splitlines() if "http" not in line and ": " not in line) <= 72


@pytest.mark.parametrize("template", sorted(MAILS))
def test_html_and_text_have_the_same_content(template: str) -> None:
    """Every value and every link of the HTML is in the text, and the reverse."""
    mail = _render(template, SAMPLES[template])
    page = _read(mail.html)
    content = "".join(page.texts)
    facts = re.findall(r"^  ([^:]+): (.+)$", mail.text, re.MULTILINE)
    for label, value in facts:
        assert label in content
        assert value in content
    assert set(page.links) == set(re.findall(r"^https?://\S+$", mail.text, re.MULTILINE))


def test_a_receipt_names_number_amount_and_both_links() -> None:
    """behaviours.md C1."""
    mail = _render("payment-receipt", SAMPLES["payment-receipt"], "de")
    for fact in ("F3A1C2D4-0007", "49,00\xa0€", "23. November 2026", "https://invoice.stripe.com/", "/pdf?s=ap"):
        assert fact in mail.text
    assert "F3A1C2D4-0007" in mail.subject


def test_no_line_break_between_amount_and_currency() -> None:
    """The heading uses a no-break space; the subject has plain spaces."""
    mail = _render("payment-final", SAMPLES["payment-final"], "de")
    heading = re.search(r"<h1[^>]*>(.*)</h1>", mail.html)
    assert heading is not None
    assert "49,00\xa0€ konnten" in heading[1]
    assert "49,00 € konnten" in mail.subject


def test_a_failed_payment_mail_has_all_data_of_c3() -> None:
    """behaviours.md C3: amount, currency, due date, hosted invoice, update-card link, next retry."""
    mail = _render("payment-failed", SAMPLES["payment-failed"])
    for fact in (
        "€49.00",
        "November 30, 2026",
        "https://invoice.stripe.com/",
        "/billing/update-payment",
        "November 26",
    ):
        assert fact in mail.text


def test_markup_in_a_name_stays_text() -> None:
    """Customers choose their names freely."""
    data = dict(SAMPLES["subscription-welcome"]) | {"name": "<script>alert(1)</script>", "organization": "A & B <b>"}
    mail = _render("subscription-welcome", data)
    assert "<script>" not in mail.html
    assert "&lt;script&gt;" in mail.html
    assert "A & B <b>" in mail.text


def test_a_name_cannot_break_a_line() -> None:
    """User input cannot add a line to the subject or the text."""
    mail = _render("plan-changed", {"name": "Jane\r\n\r\nPay here: evil", "plan": "Team\r\nBcc: all@example.com"})
    assert mail.subject == "Your plan is now Team Bcc: all@example.com"
    assert mail.text.startswith("Hello Jane Pay here: evil,\n")


@pytest.mark.parametrize(
    "name",
    [
        "Your card was charged $999. Cancel at https://evil.example/login now",
        "www.evil.example",
        "evil.example/x",
        "Call evil@mail.example",
        "Call +1 (900) 555-0100",
        "10.0.0.7/x",
        "evil\uff0eexample",
        "evil\u3002example",
        "ev\u2024il\uff61example",
        "пример.рф",
        "x.みんな",
        "a.مصر",
        "x.भारत",
        "T.ME/scam",
        "X.COM/win",
        "Visit evil.com.",
        "evil.com_",
        "evil.中国",
        "xn--e1afmkfd.xn--p1ai",
        "x" * 300,
    ],
)
def test_a_name_that_carries_a_message_or_a_link_is_left_out(name: str) -> None:
    """T42: the greeting and the footer then have no name."""
    mail = _render("payment-failed", {**SAMPLES["payment-failed"], "name": name, "organization": name})
    assert mail.text.startswith("Hello,\n")
    assert "Organization" not in mail.text


@pytest.mark.parametrize(
    "name",
    [
        "Jane Doe", "J.R.Smith", "Dr. Müller", "4711 GmbH & Co. KG", "1-800-Flowers", "Doe & Söhne GmbH", "И.И.Иванов",
        "ดร.สมชาย", "Νίκος", "Иван Петров", "محمد علي", "दीपक", "王小明", "김민준",
        "さくら", "ชัยวัฒน์", "נועה", "\u0646\u06cc\u0645\u200c\u0641\u0631",
    ],
)  # fmt: skip
def test_real_names_stay_as_they_are(name: str) -> None:
    assert _render("payment-failed", {**SAMPLES["payment-failed"], "name": name}).text.startswith(f"Hello {name},\n")


def test_invisible_characters_of_a_name_are_removed() -> None:
    name = "Ja\u200bne\u2060 \u061cDoe\U000e0041"
    assert _render("payment-failed", {**SAMPLES["payment-failed"], "name": name}).text.startswith("Hello Jane Doe,\n")


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "ftp://x/y", "https://", "//x/y", "https://x/\ny"]
)
def test_only_web_links_are_accepted(url: str) -> None:
    """A mail with any other link is not sent."""
    with pytest.raises(ValidationError):
        read_mail("churn-survey", {"survey_url": url})


def test_an_unknown_field_is_an_error_in_tests() -> None:
    """Tests are strict. The dispatcher ignores a field from a newer worker."""
    data = dict(SAMPLES["churn-survey"]) | {"surprise": 1}
    with pytest.raises(ValidationError):
        read_mail("churn-survey", data)
    assert read_mail("churn-survey", data, strict=False) == read_mail("churn-survey", SAMPLES["churn-survey"])


def test_money_is_an_integer() -> None:
    """19.99 and "1999" are not amounts in minor units."""
    for amount in (19.99, "1999", True):
        with pytest.raises(ValidationError):
            read_mail("renewal-reminder", {"amount": {"amount": amount, "currency": "eur"}})


def test_a_mail_without_a_template_is_an_error() -> None:
    """It does not render an empty mail."""
    with pytest.raises(UnknownTemplate):
        read_mail("no-such-mail", {})


def test_B3_a_changed_plan_names_price_interval_and_seats_before_and_after() -> None:
    mail = _render("plan-changed", SAMPLES["plan-changed"])
    for text in ("Scale", "Team", "1,188.00", "49.00", "yearly", "monthly", "Seats: 7", "Seats before: 5"):
        assert text in mail.text, text


def test_French_and_Portuguese_write_the_first_of_a_month_as_an_ordinal() -> None:
    data = {**SAMPLES["renewal-reminder"], "renews_at": "2026-12-01T00:00:00Z"}
    days = {"fr": "1er décembre 2026", "pt": "1º de dezembro de 2026", "es": "1 de diciembre", "de": "1. Dezember"}
    for locale, day in days.items():
        assert day in _render("renewal-reminder", data, locale).text
    later = _render("renewal-reminder", {**data, "renews_at": "2026-12-11T00:00:00Z"}, "fr").text
    assert "11 décembre 2026" in later
    assert "Montant\xa0: 49,00\xa0€" in later
