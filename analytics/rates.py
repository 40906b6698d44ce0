"""Inside the figures: what a subscription is worth a month, exactly, and rounded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from schemas.stripe.billed_subscription import BilledItem

_PER_MONTH: Mapping[str, Fraction] = {
    "day": Fraction(365, 12),
    "week": Fraction(52, 12),
    "month": Fraction(1),
    "year": Fraction(1, 12),
}
"""How many of Stripe's intervals a month has."""

_MOST = 10**15
"""Minor units a month of one item: what is more is no money, and sums of them must fit in 64 bits."""


class TooMuchMoney(Exception):
    """A rate is beyond what can be counted."""


def monthly_rate(item: BilledItem) -> Fraction:
    """Minor units a month, exact: unit amount x quantity x intervals a month. Raises TooMuchMoney.

    List prices: before discounts, credits and taxes. 0 where the event does not say what is paid (a tiered or metered
    price) or nothing recurs.
    """
    per_month = _PER_MONTH.get(item.interval or "")
    if item.unit_amount is None or per_month is None:
        return Fraction(0)
    rate = Fraction(item.unit_amount) * item.quantity * per_month / item.interval_count
    if rate > _MOST:
        raise TooMuchMoney(f"{item.price_id} comes to more than {_MOST} minor units a month")
    return rate


def rounded(rates: Iterable[Fraction]) -> int:
    """The sum, rounded to whole minor units, a half to the even neighbour. The one place where a rate is rounded:
    the items of one subscription in one plan are added up exactly before it."""
    return round(sum(rates, Fraction(0)))
