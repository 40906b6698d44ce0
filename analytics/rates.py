"""Computes what a subscription item is worth a month, exactly, and rounds sums once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from schemas.errors import BillingError
from schemas.stripe.billed_subscription import BilledItem

_PER_MONTH: Mapping[str, Fraction] = {
    "day": Fraction(365, 12),
    "week": Fraction(52, 12),
    "month": Fraction(1),
    "year": Fraction(1, 12),
}
"""Stripe's intervals per month."""

_MOST = 10**15
"""Limit for one item, in minor units a month. Larger rates are not plausible, and their sums must fit in 64 bits."""


class TooMuchMoney(BillingError):
    """The monthly rate of an item is larger than the limit."""


def monthly_rate(item: BilledItem) -> Fraction:
    """Returns the exact minor units a month: unit amount x quantity x intervals a month. Raises TooMuchMoney.

    The quantity counts packages if the price has `transform_quantity`.

    Uses list prices, before discounts, credits and taxes. Returns 0 if the event does not contain the amount (tiered
    and metered prices) or the price does not recur.
    """
    per_month = _PER_MONTH.get(item.interval or "")
    if item.unit_amount is None or per_month is None:
        return Fraction(0)
    rate = Fraction(item.unit_amount) * _billed(item) * per_month / item.interval_count
    if rate > _MOST:
        raise TooMuchMoney(f"{item.price_id} comes to more than {_MOST} minor units a month")
    return rate


def invoices_a_month(item: BilledItem) -> Fraction:
    """Returns how often a month the item is billed, exactly; 1 if its price does not recur."""
    per_month = _PER_MONTH.get(item.interval or "")
    return Fraction(1) if per_month is None else per_month / item.interval_count


def _billed(item: BilledItem) -> int:
    if item.divide_by is None:
        return item.quantity
    return -(-item.quantity // item.divide_by) if item.is_rounded_up else item.quantity // item.divide_by


def rounded(rates: Iterable[Fraction]) -> int:
    """Returns the sum, rounded half to even to whole minor units.

    Rates are rounded only here: the items of one subscription in one plan are added up exactly before.
    """
    return round(sum(rates, Fraction(0)))
