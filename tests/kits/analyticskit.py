"""Facts for tests of the figures, read from Stripe events as the analytics consumer reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from analytics.compute import figures_of
from analytics.facts import fact_of
from local.stripe.builder import Json, Price, StripeEvents
from schemas.figures import Fact, Figure, Movement
from schemas.settings import Config, Plan

BEGIN = 1_760_000_000
DAY = 86_400

BASIC = Price("price_basic", 1000, "eur", "month")
TEAM = Price("price_team", 3000, "eur", "month")
YEARLY = Price("price_team_yearly", 10_000, "eur", "year")

CONFIG = Config(
    plans={
        "basic": Plan(name="Basic", prices=("price_basic",)),
        "team": Plan(name="Team", prices=("price_team", "price_team_yearly")),
    }
)

make = StripeEvents()


def moment(seconds: int) -> datetime:
    """The time `seconds` after BEGIN, in UTC."""
    return datetime.fromtimestamp(BEGIN + seconds, UTC)


def fact(event: Json) -> Fact:
    """The fact read from an event. Fails if the event has none."""
    found = fact_of(orjson.dumps(event))
    assert found is not None
    return found


def subscribed(
    seconds: int,
    price: Price = BASIC,
    *,
    id_: str = "sub_1",
    type_: str = "updated",
    status: str = "active",
    **more: Any,
) -> Fact:
    """The fact of a `customer.subscription.{type_}` event `seconds` after BEGIN."""
    obj = make.subscription(id_, price=price, status=status, start=BEGIN, **more)
    return fact(make.event(f"customer.subscription.{type_}", obj, BEGIN + seconds))


def invoiced(seconds: int, what: str, id_: str = "in_1", price: Price = BASIC, **more: Any) -> Fact:
    """The fact of an `invoice.{what}` event `seconds` after BEGIN. A failed payment is retried a day later."""
    status = "paid" if what in ("paid", "payment_succeeded") else "open"
    if what == "payment_failed":
        more = {"next_attempt": BEGIN + seconds + DAY} | more
    obj = make.invoice(id_, price=price, status=status, created=BEGIN + seconds, **more)
    return fact(make.event(f"invoice.{what}", obj, BEGIN + seconds))


def figures(facts: Iterable[Fact], kind: type[Figure], config: Config = CONFIG) -> list[Figure]:
    return [row for row in figures_of(facts, config) if isinstance(row, kind)]


def moves(*facts: Fact) -> list[tuple[int, str, str, int]]:
    """(seconds after BEGIN, kind, plan, amount) of each movement."""
    return [
        (int(row.at.timestamp()) - BEGIN, str(row.kind), row.plan, row.amount)
        for row in figures_of(facts, CONFIG)
        if isinstance(row, Movement)
    ]


def with_items(items: Iterable[tuple[Price, int]]) -> Mapping[str, Any]:
    """The `items` field of a subscription, from pairs of price and quantity."""
    data = [make.subscription(price=price, quantity=quantity)["items"]["data"][0] for price, quantity in items]
    return {"items": {"object": "list", "data": data}}


def discounted() -> list[Json]:
    """Two customers: one with a discount that ends between two events, one with a metered price."""
    coupon = {"id": "co_1", "object": "coupon", "percent_off": 30, "duration": "repeating"}
    given = {"id": "di_1", "object": "discount", "customer": "cus_cut", "subscription": "sub_cut", "start": BEGIN,
             "end": BEGIN + 400, "coupon": coupon}  # fmt: skip
    cut = make.subscription("sub_cut", customer="cus_cut", status="active", start=BEGIN, discounts=["di_1"])
    used = make.subscription("sub_used", customer="cus_used", status="active", start=BEGIN)
    used["items"]["data"][0]["price"]["recurring"]["usage_type"] = "metered"

    def invoices(name: str) -> list[Json]:
        return [
            make.event("invoice.paid", make.invoice(f"in_{name}_{at}", customer=f"cus_{name}", status="paid",
                       subscription=f"sub_{name}", created=BEGIN + at), BEGIN + at)
            for at in range(0, 800, 70)
        ]  # fmt: skip

    return [
        make.event("customer.discount.created", given, BEGIN),
        make.event("customer.subscription.created", cut, BEGIN),
        make.event("customer.subscription.created", used, BEGIN),
        *invoices("cut"),
        *invoices("used"),
    ]
