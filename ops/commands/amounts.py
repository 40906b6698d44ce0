"""Formats amounts and durations for people: `330.99 EUR`, `250 JPY`, `3 days`."""

from __future__ import annotations

from decimal import Decimal

from sinks.email.localize import UnknownCurrency, exponent

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def amount_text(amount: int, currency: str) -> str:
    """Returns an amount in minor units with its currency. Of an unknown currency it shows the minor units."""
    try:
        decimals = exponent(currency)
    except UnknownCurrency:
        return f"{amount} minor units of {currency}"
    return f"{Decimal(amount).scaleb(-decimals):.{decimals}f} {currency.upper()}"


def duration_text(seconds: int) -> str:
    """Returns seconds in the largest unit that fits, with one decimal if it is not a whole number."""
    size, unit = next(((size, unit) for size, unit in _UNITS if abs(seconds) >= size), _UNITS[-1])
    count = f"{seconds / size:.1f}".removesuffix(".0")
    return f"{count} {unit}{'' if count in ('1', '-1') else 's'}"
