"""Money and dates in a mail are exact and formatted for the reader's locale."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from babel import Locale
from hypothesis import given
from hypothesis import strategies as st

from schemas.mail import Money
from sinks.email.localize import UnknownCurrency, Words, choose_locale, exponent, format_money, to_decimal

EN, DE, FR = Locale("en"), Locale("de"), Locale("fr")
LANGUAGES = frozenset({"en", "de"})
CURRENCIES = ("eur", "usd", "gbp", "jpy", "krw", "kwd", "bhd", "isk", "ugx", "mga", "afn", "huf", "twd", "clp", "xof")


@pytest.mark.parametrize(
    ("amount", "currency", "locale", "shown"),
    [
        (1999, "usd", EN, "$19.99"),
        (1999, "eur", DE, "19,99\xa0€"),
        (123456789, "eur", DE, "1.234.567,89\xa0€"),
        (1999, "jpy", EN, "¥1,999"),
        (1500, "kwd", EN, "KWD\xa01.500"),
        (5, "kwd", EN, "KWD\xa00.005"),
        (500, "isk", EN, "ISK\xa05"),  # no decimals in ISO, two decimals at Stripe
        (500, "ugx", EN, "UGX\xa05"),
        (550, "ugx", EN, "UGX\xa05.50"),  # Stripe does not allow this amount, but it must not be rounded
        (500, "mga", EN, "MGA\xa0500"),  # two decimals in ISO, none at Stripe
        (1050, "afn", EN, "AFN\xa010.50"),  # CLDR would print no decimals
        (199900, "huf", EN, "HUF\xa01,999.00"),
        (-1999, "usd", EN, "-$19.99"),
        (0, "eur", EN, "€0.00"),
    ],
)
def test_amounts_match_a_table_made_by_hand(amount: int, currency: str, locale: Locale, shown: str) -> None:
    """Each line was derived by hand from ISO 4217 and Stripe's list of special cases."""
    assert format_money(Money(amount=amount, currency=currency), locale) == shown


@pytest.mark.parametrize("currency", ["abc", "zzz", "eu", ""])
def test_an_unknown_currency_is_an_error(currency: str) -> None:
    """A default of two decimals would show a wrong amount."""
    with pytest.raises(UnknownCurrency):
        exponent(currency)


@given(st.integers(-(10**15), 10**15), st.sampled_from(CURRENCIES))
def test_no_minor_unit_is_lost(amount: int, currency: str) -> None:
    """The digits of the formatted text are those of the amount."""
    money = Money(amount=amount, currency=currency)
    shown = format_money(money, EN)
    digits = Decimal("".join(c for c in shown if c.isdigit() or c == "."))
    assert digits == abs(to_decimal(money))
    assert digits.scaleb(exponent(currency)) == abs(amount)
    assert ("-" in shown) == (amount < 0)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (("de-AT", "en"), "de_AT"),
        (("de_CH",), "de_CH"),
        (("fr", "de"), "de"),  # there are no French texts, so numbers are not French either
        (("not a locale", None, "", "de"), "de"),
        (("fr",), "en"),
        ((), "en"),
    ],
)
def test_the_first_locale_with_texts_is_used(wanted: tuple[str | None, ...], chosen: str) -> None:
    """Stripe accepts any text as a preferred locale."""
    assert str(choose_locale(wanted, LANGUAGES)) == chosen


def test_dates_are_days_in_utc() -> None:
    """An hour before midnight in New York is the next day in UTC."""
    at = datetime(2026, 11, 30, 23, 0, tzinfo=timezone(timedelta(hours=-5)))
    assert Words(EN).day(at) == "December 1, 2026"
    assert Words(DE).day(at) == "1. Dezember 2026"
    assert Words(DE).moment(datetime(2026, 12, 6, 23, 59, 59, tzinfo=UTC)) == "6. Dezember 2026, 23:59:59 UTC"
    assert Words(FR).day(None) is None
    assert Words(DE).count(1, "day") == "1 Tag"
