"""Amounts and durations as people read them."""

from __future__ import annotations

import pytest

from ops.commands.amounts import amount_text, duration_text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [(33_099, "eur", "330.99 EUR"), (250, "jpy", "250 JPY"), (-1_234, "kwd", "-1.234 KWD"), (0, "usd", "0.00 USD"),
     (7, "qqq", "7 minor units of qqq")],
)  # fmt: skip
def test_G57_amounts_carry_their_currency(amount: int, currency: str, text: str) -> None:
    assert amount_text(amount, currency) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(259_200, "3 days"), (86_400, "1 day"), (129_600, "1.5 days"), (4_940, "1.4 hours"), (59, "59 seconds"),
     (0, "0 seconds")],
)  # fmt: skip
def test_G57_durations_carry_their_unit(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text
