"""Addresses from outside that urlsplit refuses are no error of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.doctor.config_problems import problems_of_file
from schemas.settings import Config
from schemas.urls import is_page_of_stripe, parts_of
from sinks.email.smtp import InvalidSmtpUrl, parse_smtp_url
from streams.rules.mails import stripe_link

BROKEN = ["https://[", "https://[::1/x", "https://stripe.com\u2100/x", "//[x", "https://]stripe.com"]


@pytest.mark.parametrize("url", BROKEN)
def test_a_broken_address_has_no_parts_and_makes_no_link(url: str) -> None:
    """An invoice with such a page is applied as any other, and its mail has no link."""
    assert parts_of(url).hostname is None
    assert stripe_link(Config(), url) is None
    with pytest.raises(InvalidSmtpUrl):
        parse_smtp_url(url.replace("https", "smtp"))


@pytest.mark.parametrize(
    "url",
    [
        r"https://evil.example\@invoice.stripe.com/x",
        r"https://evil.example\.stripe.com/x",
        "https://jane:pw@invoice.stripe.com/",
        "https://invoice.stripe.com:443@evil.example/",
        "https://evil.example%5c@stripe.com/",
        "https://evil.example%2f.stripe.com/",
        "https://evil\texample.stripe.com/",
        "https://evil.example\n.stripe.com/",
        "https://evil.example;.stripe.com/",
        "https://evil.example\uff3c.stripe.com/",
        "https://\u0131nvoice.stripe.com/",
        "https://stripe.com.evil.example/",
        "https://notstripe.com/",
        "https:///stripe.com",
        "http://invoice.stripe.com/",
    ],
)
def test_T45_an_address_that_a_browser_reads_otherwise_makes_no_link(url: str) -> None:
    assert stripe_link(Config(), url) is None
    assert not is_page_of_stripe(url, ["pay.example.com"])


@pytest.mark.parametrize(
    "url",
    [
        "https://invoice.stripe.com/i/acct_1/test_YWNj?s=ap",
        "https://stripe.com",
        "HTTPS://Pay.Stripe.com:443/receipts/x#a@b",
        "https://pay.example.com/x",
    ],
)
def test_T45_pages_of_stripe_and_of_ones_own_domain_stay(url: str) -> None:
    assert is_page_of_stripe(url, ["pay.example.com"])


def test_a_config_that_is_nested_too_deeply_is_a_problem_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("a=" + "[" * 3000 + "]" * 3000)
    (found,) = problems_of_file(path)
    assert "nested" in str(found)
