"""Inside a mail: money, dates and numbers as the reader writes them.

Amounts come as Stripe's minor units. How many of them make one is ISO 4217's exponent, but for Stripe's own exceptions
(https://docs.stripe.com/currencies): MGA has no minor unit there; ISK and UGX have none in ISO, and yet are counted in
hundredths. CLDR's number of decimals is something else (how people round in print), so it is not asked.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime
from babel.numbers import is_currency
from babel.units import format_unit

from schemas.mail import Money

_NO_MINOR_UNIT = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "UYI", "VND", "VUV", "XAF", "XOF", "XPF")
)
_THOUSANDTHS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))
_HUNDREDTHS_ONLY_AT_STRIPE = frozenset(("ISK", "UGX"))

# CLDR sets a space between a code and its amount (`KWD 1.500`); babel leaves it out.
_LETTER_BESIDE_DIGIT = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")

FALLBACK = Locale("en")


class UnknownCurrency(Exception):
    """No currency of that code: an amount in it cannot be shown, and is not guessed."""


def exponent(currency: str) -> int:
    """Decimals of Stripe's minor unit: 2 for `eur`, 0 for `jpy`, 3 for `kwd`. Raises UnknownCurrency."""
    code = currency.upper()
    if not is_currency(code):
        raise UnknownCurrency(currency)
    if code in _NO_MINOR_UNIT:
        return 0
    return 3 if code in _THOUSANDTHS else 2


def to_decimal(money: Money) -> Decimal:
    """The amount in whole units, exact."""
    return Decimal(money.amount).scaleb(-exponent(money.currency))


def format_money(money: Money, locale: Locale) -> str:
    """`€19.99`, `19,99 €`, `¥1,999`. Raises UnknownCurrency."""
    value, decimals, code = to_decimal(money), exponent(money.currency), money.currency.upper()
    if code in _HUNDREDTHS_ONLY_AT_STRIPE and value == value.to_integral_value():
        decimals = 0
    pattern = copy.copy(locale.currency_formats["standard"])
    pattern.frac_prec = (decimals, decimals)
    return _LETTER_BESIDE_DIGIT.sub("\xa0", str(pattern.apply(value, locale, currency=code, currency_digits=False)))


@dataclass(frozen=True, slots=True)
class Words:
    """What a template calls. Each takes None for something unknown and gives None back."""

    locale: Locale

    def money(self, money: Money | None) -> str | None:
        return format_money(money, self.locale) if money is not None else None

    def day(self, at: datetime | None) -> str | None:
        """A date in UTC, written out."""
        return format_date(at.astimezone(UTC), "long", locale=self.locale) if at is not None else None

    def moment(self, at: datetime | None) -> str | None:
        """Date and time, where the hour matters; it says UTC."""
        if at is None:
            return None
        return format_datetime(at.astimezone(UTC), "long", locale=self.locale, tzinfo=UTC)

    def month(self, year: int, month: int) -> str:
        """A card's expiry: `11/2027`."""
        return f"{month:02d}/{year}"

    def count(self, number: int, unit: str) -> str:
        """`3 days`; `unit` is day, week, month or year."""
        return format_unit(number, f"duration-{unit}", "long", locale=self.locale)


def choose_locale(wanted: Iterable[str | None], languages: frozenset[str]) -> Locale:
    """The first that is a locale (`de`, `de-AT`, `pt_BR`) in whose language mails are written; else English.

    Numbers follow the text: a French amount in an English sentence helps nobody.
    """
    for name in wanted:
        try:
            locale = Locale.parse((name or "").replace("-", "_")) if name else None
        except (UnknownLocaleError, ValueError):
            continue  # Stripe takes any text as a preferred locale
        if locale is not None and locale.language in languages:
            return locale
    return FALLBACK
