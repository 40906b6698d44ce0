"""Formats money, dates and numbers in a mail for the reader's locale.

Amounts are in Stripe's minor units. The number of decimals is ISO 4217's exponent, with Stripe's exceptions
(https://docs.stripe.com/currencies): MGA has no minor unit at Stripe; ISK and UGX have none in ISO, but Stripe counts
them in hundredths. CLDR's number of decimals is not used: it describes how amounts are rounded in print.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime
from babel.numbers import is_currency
from babel.units import format_unit

from schemas.errors import BillingError
from schemas.mail import Money

_NO_MINOR_UNIT = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "UYI", "VND", "VUV", "XAF", "XOF", "XPF")
)
_THOUSANDTHS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))
_HUNDREDTHS_ONLY_AT_STRIPE = frozenset(("ISK", "UGX"))

# CLDR puts a space between a code and its amount (`KWD 1.500`); babel omits it.
_LETTER_NEXT_TO_DIGIT = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")

FALLBACK = Locale("en")

_MINOR_UNITS = {
    "de": "in der kleinsten Einheit",
    "es": "en la unidad mínima",
    "fr": "dans la plus petite unité",
    "pt": "na menor unidade",
}


_FIRST_OF_MONTH = {"fr": "1er", "pt": "1º"}


class UnknownCurrency(BillingError):
    """The currency code is unknown, so the number of decimals of its amounts is unknown."""


def exponent(currency: str) -> int:
    """The number of decimals of Stripe's minor unit: 2 for `eur`, 0 for `jpy`, 3 for `kwd`. Raises UnknownCurrency."""
    code = currency.upper()
    if not is_currency(code):
        raise UnknownCurrency(currency)
    if code in _NO_MINOR_UNIT:
        return 0
    return 3 if code in _THOUSANDTHS else 2


def to_decimal(money: Money) -> Decimal:
    """The exact amount in major units. Raises UnknownCurrency."""
    return Decimal(money.amount).scaleb(-exponent(money.currency))


# A mail shows the same few amounts in its subject and in both versions, and formatting one takes a tenth of its time.
@lru_cache(maxsize=4096)
def format_money(money: Money, locale: Locale) -> str:
    """Format the amount: `€19.99`, `19,99 €`, `¥1,999`. Raises UnknownCurrency."""
    value, decimals, code = to_decimal(money), exponent(money.currency), money.currency.upper()
    if code in _HUNDREDTHS_ONLY_AT_STRIPE and value == value.to_integral_value():
        decimals = 0
    pattern = copy.copy(locale.currency_formats["standard"])
    pattern.frac_prec = (decimals, decimals)
    return _LETTER_NEXT_TO_DIGIT.sub("\xa0", str(pattern.apply(value, locale, currency=code, currency_digits=False)))


@lru_cache(maxsize=4096)
def _long_date(day: date, locale: Locale) -> str:
    return format_date(day, "long", locale=locale)


@dataclass(frozen=True, slots=True)
class Words:
    """The formatting functions that templates call. `money`, `day` and `moment` return None for None."""

    locale: Locale
    is_for_operator: bool = False

    def money(self, money: Money | None) -> str | None:
        """Raises UnknownCurrency, except in a mail to the operator: that shows Stripe's number and says what it is."""
        if money is None:
            return None
        try:
            return format_money(money, self.locale)
        except UnknownCurrency:
            if not self.is_for_operator:
                raise
            return f"{money.amount} {money.currency.upper()} ({_MINOR_UNITS.get(self.locale.language, 'minor units')})"

    def day(self, at: datetime | None) -> str | None:
        """The date in UTC, in the locale's long form."""
        if at is None:
            return None
        return self._with_ordinal(at, _long_date(at.astimezone(UTC).date(), self.locale))

    def moment(self, at: datetime | None) -> str | None:
        """Date and time in UTC, in the locale's long form, which names the zone."""
        if at is None:
            return None
        text = format_datetime(at.astimezone(UTC), "long", locale=self.locale, tzinfo=UTC)
        return self._with_ordinal(at, text)

    def _with_ordinal(self, at: datetime, text: str) -> str:
        """The first of a month as French and Portuguese write it, which CLDR's pattern does not."""
        ordinal = _FIRST_OF_MONTH.get(self.locale.language)
        is_first = at.astimezone(UTC).day == 1 and text.startswith("1 ")
        return f"{ordinal}{text[1:]}" if is_first and ordinal is not None else text

    def month(self, year: int, month: int) -> str:
        """A card's expiry month: `11/2027`."""
        return f"{month:02d}/{year}"

    def count(self, number: int, unit: str) -> str:
        """A number with its unit: `3 days`. `unit` is day, week, month or year."""
        return format_unit(number, f"duration-{unit}", "long", locale=self.locale)


def choose_locale(wanted: Iterable[str | None], languages: frozenset[str]) -> Locale:
    """Return the first valid locale (`de`, `de-AT`, `pt_BR`) in `wanted` that has a language in `languages`.

    Each of `wanted` can be several, separated by commas: a reader's preferred locales, the best first.
    Returns English if there is none. Text and numbers use the same locale, so that an English sentence never contains
    an amount in French format.
    """
    for name in (one.strip() for names in wanted for one in (names or "").split(",")):
        try:
            locale = _parsed(name.replace("-", "_")) if name else None
        except (UnknownLocaleError, ValueError):
            continue  # Stripe accepts any text as a preferred locale
        if locale is not None and locale.language in languages:
            return locale
    return FALLBACK


@lru_cache(maxsize=256)
def _parsed(name: str) -> Locale | None:
    return Locale.parse(name)
