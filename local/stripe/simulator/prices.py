"""The products and prices of the simulated company."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def _price(
    id_: str,
    amount: int | None,
    *,
    currency: str = "eur",
    interval: str | None = "month",
    nickname: str | None = None,
    usage: str = "licensed",
    **more: Any,
) -> Json:
    recurring = {"interval": interval, "interval_count": 1, "meter": None, "trial_period_days": None}
    return {
        "id": id_,
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": 1_700_000_000,
        "currency": currency,
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": nickname,
        "product": f"prod_{id_.removeprefix('price_')}",
        "recurring": recurring | {"usage_type": usage} if interval else None,
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring" if interval else "one_time",
        "unit_amount": amount,
        "unit_amount_decimal": None if amount is None else str(amount),
    } | more


PRICES: Mapping[str, Json] = {
    price["id"]: price
    for price in (
        _price("price_pro", 2900, nickname="Pro"),
        _price("price_pro_yearly", 29_000, interval="year"),
        _price("price_team", 9900, _currencies={"usd": 10_900, "jpy": 15_000}),
        _price("price_team_packs", 5000, transform_quantity={"divide_by": 10, "round": "up"}),
        _price("price_odd", 500, currency="jpy"),
        _price("price_dinar", 12_340, currency="kwd", nickname="Gulf"),
        _price("price_free", 0),
        _price(
            "price_tiered",
            None,
            billing_scheme="tiered",
            tiers_mode="graduated",
            _tiers=((10, 300), (None, 200)),
        ),
        _price("price_usage", None, usage="metered", unit_amount_decimal="0.5", _unit="0.5"),
        _price("price_support", 1000, nickname="Support"),
        _price("price_setup", 4900, interval=None),
    )
}
"""By id. `_currencies` are the amounts of `currency_options`, which Stripe shows only when they are expanded."""

PLANS = {
    "free": ("price_free",),
    "pro": ("price_pro", "price_pro_yearly", "price_dinar"),
    "team": ("price_team", "price_team_packs", "price_tiered"),
}
"""The plans that the product's config names, from small to large. `price_odd` and the add-ons belong to no plan."""

PLAN_PRICES = ("price_pro", "price_team", "price_pro_yearly", "price_team_packs", "price_tiered", "price_odd")
ADD_ONS = ("price_support", "price_usage")


def amount_of(price: Json, quantity: int, currency: str) -> int:
    """Returns what this many units cost for one period, in minor units of the currency. Metered usage is extra."""
    if price.get("_unit"):
        return 0
    if price.get("_tiers"):
        return _tiered(price["_tiers"], quantity)
    if price["transform_quantity"]:
        quantity = -(-quantity // int(price["transform_quantity"]["divide_by"]))
    unit = price["unit_amount"] if currency == price["currency"] else price["_currencies"][currency]
    return int(unit) * quantity


def _tiered(tiers: tuple[tuple[int | None, int], ...], quantity: int) -> int:
    total, before = 0, 0
    for up_to, unit in tiers:
        last = quantity if up_to is None else min(quantity, up_to)
        total += max(0, last - before) * unit
        before = max(before, last)
    return total


def shown(price: Json) -> Json:
    """Returns the price as Stripe shows it inside other objects."""
    return {name: value for name, value in price.items() if not name.startswith("_")}
