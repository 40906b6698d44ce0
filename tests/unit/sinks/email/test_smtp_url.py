"""`BILLING_SMTP_URL` is the address of the mail server. Its password is never shown."""

from __future__ import annotations

import pytest

from sinks.email.smtp import InvalidSmtpUrl, SmtpServer, parse_smtp_url


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://127.0.0.1:1025", SmtpServer("127.0.0.1", 1025, "none")),
        ("smtp://localhost", SmtpServer("localhost", 25, "none")),
        ("smtp+starttls://u:p%40ss@mx.example.com", SmtpServer("mx.example.com", 587, "starttls", "u", "p@ss")),
        ("smtps://u%40x:p@mx.example.com:2465", SmtpServer("mx.example.com", 2465, "implicit", "u@x", "p")),
        ("smtp://u:p@[::1]:25", SmtpServer("::1", 25, "none", "u", "p")),
    ],
)
def test_urls_are_read(url: str, server: SmtpServer) -> None:
    """Each scheme has its own default port."""
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "http://hunter2@x",
        "smtp://",
        "smtp://x:hunter2",
        "smtp://x:99999",
        "smtps://u@hunter2.example",
        "smtp://hunter2.example",
        "smtp://10.0.0.5:25/hunter2",
        "smtp://u:hunter2@mx.example.com",
    ],
)
def test_an_unusable_url_is_refused_without_being_shown(url: str) -> None:
    """The last three would send mails or a password unencrypted over the network."""
    with pytest.raises(InvalidSmtpUrl) as refused:
        parse_smtp_url(url)
    assert "hunter2" not in str(refused.value)


def test_a_server_does_not_show_its_password() -> None:
    """Neither repr nor str contains it."""
    assert "hunter2" not in repr(parse_smtp_url("smtps://u:hunter2@mx.example.com"))


def test_a_remote_server_without_encryption_must_be_allowed() -> None:
    """Mails have addresses, receipts and signed links. A password is never sent unencrypted."""
    with pytest.raises(InvalidSmtpUrl, match="BILLING_SMTP_ALLOW_PLAINTEXT"):
        parse_smtp_url("smtp://relay.internal")
    allowed = parse_smtp_url("smtp://relay.internal", allow_plaintext=True)
    assert allowed == SmtpServer("relay.internal", 25, "none")
    with pytest.raises(InvalidSmtpUrl, match="password"):
        parse_smtp_url("smtp://u:p@relay.internal", allow_plaintext=True)
