"""Addresses from outside that urlsplit refuses are no error of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.doctor.config_problems import problems_of_file
from schemas.settings import Config
from schemas.urls import parts_of
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


def test_a_config_that_is_nested_too_deeply_is_a_problem_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("a=" + "[" * 3000 + "]" * 3000)
    (found,) = problems_of_file(path)
    assert "nested" in str(found)
