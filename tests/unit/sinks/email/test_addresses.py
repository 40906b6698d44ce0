"""Only a valid address gets into a header or an SMTP command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.email.addresses import UnusableAddress, read_address, read_mailbox


@pytest.mark.parametrize(
    ("text", "addr_spec"),
    [
        ("jane@example.com", "jane@example.com"),
        (" jane@example.com ", "jane@example.com"),
        ("jane+tag@EXAMPLE.com", "jane+tag@example.com"),
        ("jane@bücher.example", "jane@xn--bcher-kva.example"),
        ("用户@例子.example", "用户@xn--fsqu00a.example"),
        ("billing@localhost", "billing@localhost"),
        ("o'brien@example.com", "o'brien@example.com"),
    ],
)
def test_addresses_are_read(text: str, addr_spec: str) -> None:
    """An IDN becomes its ASCII form. A non-ASCII local part is kept; the server must then offer SMTPUTF8."""
    assert read_address(text).addr_spec == addr_spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jane",
        "@example.com",
        "jane@",
        "jane@example.com\r\nBcc: all@example.com",
        "jane@example.com\nRCPT TO:<x@example.com>",
        "ja\tne@example.com",
        "jane @example.com",
        "jane@exa mple.com",
        "jane@example..com",
        "<jane@example.com>",
        "Jane <jane@example.com>",
        "jane@example.com, joe@example.com",
        "a@b@example.com",
        '"jane doe"@example.com',
        ".jane@example.com",
        "ja..ne@example.com",
        "jane@-example.com",
        "jane\u2028@example.com",
        "ja\u202ene@example.com",
        "jane\x00@example.com",
        "a" * 65 + "@example.com",
        "jane@" + "a" * 64 + ".com",
        "jane@" + "a." * 140 + "com",
    ],
)
def test_an_invalid_address_is_refused_with_a_reason(text: str) -> None:
    """The reason does not contain the address, since the reason is stored and logged."""
    with pytest.raises(UnusableAddress) as refused:
        read_address(text)
    assert str(refused.value).startswith("the ")


@given(st.text(max_size=80))
def test_every_accepted_address_is_safe(text: str) -> None:
    """An accepted address never contains white space, a control character or a bracket."""
    try:
        found = read_address(text)
    except UnusableAddress:
        return
    assert not any(c.isspace() or not c.isprintable() or c in '<>,;:"\\' for c in found.addr_spec)
    assert found.addr_spec.count("@") == 1
    assert found.domain.isascii()


def test_the_configuration_may_name_a_person() -> None:
    """`mail.sender` may contain a name and an address."""
    sender = read_mailbox("Acme Billing <billing@example.com>")
    assert (sender.name, sender.addr_spec) == ("Acme Billing", "billing@example.com")
    assert str(sender.header) == "Acme Billing <billing@example.com>"


def test_logs_show_a_masked_address() -> None:
    """The masked form is enough to recognise a customer."""
    assert read_address("jane.doe@example.com").masked == "j***@example.com"


@pytest.mark.parametrize(
    "text",
    ["a@b.example, c@d.example", "a@b.example\r\nBcc: x@y.example", "A\n <a@b.example>", "Doe, J <a@b.example>"],
)
def test_a_setting_has_one_address_in_one_line(text: str) -> None:
    with pytest.raises(UnusableAddress):
        read_mailbox(text)


def test_a_setting_may_have_a_name() -> None:
    assert read_mailbox('"Doe, J" <a@b.example>').name == "Doe, J"
    assert read_mailbox("Ünï <a@b.example>").name == "Ünï"
