"""An unsubscribe link is valid only for the customer it was created for."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.email.unsubscribe import ForgedToken, Subscriber, sign, unsubscribe_url, verify

SECRET = b"a secret of this test"
SUBSCRIBER = Subscriber("acct_1", "cus_1", "win-back")


IDS = st.text(max_size=40)
"""Three of these always fit into the longest token (2048 characters), even if JSON escapes every character."""


@given(IDS, IDS, IDS)
def test_a_token_contains_customer_and_template(account: str, customer_id: str, template: str) -> None:
    """The token round-trips for ids of any form."""
    subscriber = Subscriber(account, customer_id, template)
    assert verify([SECRET], sign(SECRET, subscriber)) == subscriber


def test_another_secret_refuses_it() -> None:
    """Links of one environment do not work in another."""
    with pytest.raises(ForgedToken):
        verify([b"another"], sign(SECRET, SUBSCRIBER))


@pytest.mark.parametrize("token", ["", ".", "a.b", "no dot", "é.é", "." * 5000, "W10.W10", "=.="])
def test_an_invalid_token_is_refused(token: str) -> None:
    """Anyone can call the link."""
    with pytest.raises(ForgedToken):
        verify([SECRET], token)


def test_a_changed_token_is_refused() -> None:
    """No part of the token can be replaced."""
    body, mac = sign(SECRET, SUBSCRIBER).split(".")
    other_body, other_mac = sign(SECRET, Subscriber("acct_1", "cus_2", "win-back")).split(".")
    for forged in (f"{other_body}.{mac}", f"{body}.{other_mac}"):
        with pytest.raises(ForgedToken):
            verify([SECRET], forged)


def test_the_link_carries_the_token() -> None:
    """The link uses the product's own address."""
    url = unsubscribe_url("https://app.example.com/", SECRET, SUBSCRIBER)
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "app.example.com", "/unsubscribe")
    assert verify([SECRET], parse_qs(parts.query)["token"][0]) == SUBSCRIBER
