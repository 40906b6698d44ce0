"""A mail message: its headers, its parts, and the reasons why a mail cannot be sent."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest

from schemas.settings import Mail
from sinks.email.message import Composer, QueuedMail, RecipientUnknown, UnsendableMail
from sinks.email.mime import mail_bytes
from sinks.email.rendering import Rendered
from sinks.email.samples import SAMPLES
from tests.kits.mailkit import queued_sample

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
CONFIG = Mail(
    sender="Acme Billing <billing@example.com>",
    operator="ops@example.com",
    reply_to="help@example.com",
    product="Acme",
    app_url="https://app.example.com",
)


def _compose(mail: QueuedMail, config: Mail = CONFIG, link_secret: bytes | None = b"s") -> EmailMessage:
    """The message as a receiver reads it: serialised and parsed again."""
    raw = Composer(config, link_secret=link_secret).compose(mail, NOW).content
    assert raw.isascii()
    parsed = message_from_bytes(raw, policy=default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def test_headers_of_a_customers_mail() -> None:
    """The headers of RFC 3834 prevent out-of-office replies."""
    message = _compose(queued_sample())
    assert message["From"] == "Acme Billing <billing@example.com>"
    assert message["To"] == "jane@example.com"
    assert message["Reply-To"] == "help@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime == NOW
    assert message["List-Unsubscribe"] is None
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


def test_the_message_id_is_derived_from_the_key() -> None:
    """It is the same for every try, different for every mail, and does not reveal the key."""
    first, again = _compose(queued_sample()), _compose(queued_sample(attempts=5))
    other = _compose(queued_sample(key="payment-receipt/in_2"))
    assert first["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    assert first["Message-ID"].endswith("@example.com>")
    assert "in_1" not in first["Message-ID"]


def test_a_non_ascii_address_needs_smtputf8() -> None:
    """Encoded words are not allowed in an address."""
    letter = Composer(CONFIG).compose(queued_sample(recipient="用户@例子.example"), NOW)
    assert letter.needs_utf8
    assert "To: 用户@xn--fsqu00a.example\r\n".encode() in letter.content


@pytest.mark.parametrize("template", ["churn-survey", "win-back"])
def test_optional_mails_have_unsubscribe_headers(template: str) -> None:
    """They offer one click (RFC 8058) and mail."""
    message = _compose(queued_sample(template))
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = message["List-Unsubscribe"].split(",")[0].strip().strip("<>")
    assert link.startswith("https://app.example.com/unsubscribe?token=")
    html = message.get_body(("html",))
    assert html is not None
    assert link in html.get_content()


def test_without_a_secret_optional_mails_offer_unsubscribe_by_mail_only() -> None:
    """Without a secret the link could not be verified."""
    message = _compose(queued_sample("win-back"), link_secret=None)
    assert message["List-Unsubscribe"] == "<mailto:help@example.com?subject=unsubscribe>"
    assert message["List-Unsubscribe-Post"] is None


def test_non_ascii_subjects_are_preserved() -> None:
    """A long subject stays one header."""
    data = dict(SAMPLES["subscription-welcome"]) | {"plan": "Größe für Ärzte " * 15}
    message = _compose(queued_sample("subscription-welcome", data=data))
    assert "Größe für Ärzte Größe" in message["Subject"]
    assert message["Bcc"] is None


def test_the_customers_locale_is_used_then_the_configured_one() -> None:
    """The customer's present locale has priority over that of the row, which is as old as the mail."""
    assert "Zahlungsbeleg" in _compose(queued_sample(customer_locale="de-CH"))["Subject"]
    assert "Zahlungsbeleg" in _compose(queued_sample(locale="en-GB", customer_locale="de"))["Subject"]
    assert "Zahlungsbeleg" in _compose(queued_sample(locale="de"))["Subject"]
    assert "Zahlungsbeleg" in _compose(queued_sample(), CONFIG.model_copy(update={"default_locale": "de"}))["Subject"]


@pytest.mark.parametrize("template", ["operator-alert", "dispute-opened", "dispute-due"])
def test_operators_mails_never_reach_the_customer(template: str) -> None:
    """This holds even if the row names a customer with a known address."""
    message = _compose(queued_sample(template, recipient=None, customer_email="jane@example.com", customer_locale="de"))
    assert message["To"] == "ops@example.com"
    assert message["Subject"].startswith("[billing]")
    assert "Streitfall" not in message["Subject"]


def test_the_customers_address_is_read_when_sending() -> None:
    """The address may have been unknown or different when the mail was queued."""
    assert _compose(queued_sample(recipient=None, customer_email="new@example.com"))["To"] == "new@example.com"
    for unknown in (None, ""):
        with pytest.raises(RecipientUnknown):
            _compose(queued_sample(recipient=None, customer_email=unknown))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipient": "jane@example.com\r\nBcc: all@example.com"}, "white space or control"),
        ({"recipient": "Jane <jane@example.com>"}, "white space"),
        ({"data": {}}, "amount: Field required"),
        (
            {"data": dict(SAMPLES["payment-receipt"]) | {"amount": {"amount": 1, "currency": "abc"}}},
            "unknown currency abc",
        ),
        ({"data": dict(SAMPLES["payment-receipt"]) | {"pdf_url": "javascript:alert(1)"}}, "pdf_url"),
        ({"template": "no-such-mail"}, "no template no-such-mail"),
    ],
)
def test_an_unsendable_mail_has_a_reason(changes: dict[str, Any], reason: str) -> None:
    """The reason names the field and does not contain its value."""
    with pytest.raises(UnsendableMail, match=reason) as refused:
        _compose(queued_sample(**changes))
    assert "alert" not in str(refused.value)
    assert "jane" not in str(refused.value)


@pytest.mark.parametrize("template", sorted(SAMPLES))
@pytest.mark.parametrize("locale", ["en", "de"])
def test_the_quick_way_writes_the_message_of_the_standard_library(
    monkeypatch: pytest.MonkeyPatch, template: str, locale: str
) -> None:
    """Also where a subject needs encoding: then it is the standard library's own."""
    mail = queued_sample(template=template, locale=locale)
    quick = _compose(mail)
    monkeypatch.setattr("sinks.email.message.mail_bytes", lambda *_: None)
    slow = _compose(mail)
    assert [(name, str(value)) for name, value in quick.items() if name not in ("Content-Type", "MIME-Version")] == [
        (name, str(value)) for name, value in slow.items() if name not in ("Content-Type", "MIME-Version")
    ]
    for one, other in zip(quick.walk(), slow.walk(), strict=True):
        assert one.get_content_type() == other.get_content_type()
        if not one.is_multipart():
            assert one.get_content() == other.get_content()


def test_odd_content_survives_the_quick_way() -> None:
    """Long lines, blanks at the end of a line, dots, other line ends, and text that looks like a part."""
    text = "a" * 200 + "\n.\n..x  \n--=_b\n=_b€ \u2028\x0c 名\r\nFrom me\n\tend\t"
    raw = mail_bytes([("Subject", "s"), ("To", "a@example.com")], Rendered("s", f"<p>{text}</p>", text), "=_b")
    assert raw is not None
    assert raw.isascii()
    assert all(len(line) <= 76 for line in raw.partition(b"\r\n\r\n")[2].split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")
    parsed = message_from_bytes(raw, policy=default)
    assert isinstance(parsed, EmailMessage)
    plain, html = parsed.iter_parts()
    expected = [line.decode() for line in text.encode().splitlines()]
    assert plain.get_content().split("\r\n") == [*expected, ""]
    assert "".join(html.get_content().split("\r\n")) == f"<p>{''.join(expected)}</p>"


@pytest.mark.parametrize("subject", ["Receipt for €19.99", "名" * 90, "a_b=c?d " * 12 + "é", "=?utf-8?q?x?= é"])
def test_a_subject_is_encoded_in_short_lines(subject: str) -> None:
    raw = mail_bytes([("To", "a@example.com"), ("Subject", subject)], Rendered("s", "h", "t"), "=_b")
    assert raw is not None
    assert raw.isascii()
    assert all(len(line) <= 76 for line in raw.split(b"\r\n"))
    assert message_from_bytes(raw, policy=default)["Subject"] == subject


@pytest.mark.parametrize(
    "header",
    [("To", "Café <a@example.com>"), ("Subject", "a" * 300), ("Subject", "two\r\nBcc: b@example.com")],
)
def test_a_header_that_needs_more_is_left_to_the_standard_library(header: tuple[str, str]) -> None:
    assert mail_bytes([header], Rendered("s", "h", "t"), "=_b") is None
