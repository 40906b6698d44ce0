"""The audit log keeps no address, however an operator writes it (behaviours.md B6)."""

from __future__ import annotations

import pytest

from schemas.ordering import guest_key
from sinks.postgres.audit_log import without_addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("request of kim@example.com, by letter", "kim@example.com"),
        ("'kim@example.com'", "kim@example.com"),
        ("<kim@example.com>", "kim@example.com"),
        ("o'brien@example.com", "o'brien@example.com"),
        ('"kim guest"@example.com', '"kim guest"@example.com'),
        ("kim\uff20example.com", "kim@example.com"),
        ("kim%40example.com", "kim@example.com"),
        ("kim%2540example.com", "kim@example.com"),
        ("kim%25252540example.com", "kim@example.com"),
        ("kim%ef%bc%a0example.com", "kim@example.com"),
        ("kim\\u0040example.com", "kim@example.com"),
        ('"kim\\\\u0040example.com"', "kim@example.com"),
        ("kim\\uFF20example.com", "kim@example.com"),
        ("kim\\x40example.com", "kim@example.com"),
        ("kim&#64;example.com", "kim@example.com"),
        ("kim&#x0040;example.com", "kim@example.com"),
        ("kim&amp;commat;example.com", "kim@example.com"),
        ("KIM@EXAMPLE.COM", "kim@example.com"),
        ("кім@пример.рф", "кім@пример.рф"),
    ],
)
def test_an_address_is_replaced_by_its_digest(text: str, address: str) -> None:
    kept = without_addresses(text)
    assert guest_key(address) in kept
    assert "@" not in kept
    assert not any(word in kept.lower() for word in ("kim", "brien", "example", "пример"))


@pytest.mark.parametrize("text", ["", 'a "quoted" reason', "o'clock", "50 % of 40", "@", "cus_1; evt_1", "%40 &#64;"])
def test_other_texts_stay(text: str) -> None:
    assert without_addresses(text) == text
