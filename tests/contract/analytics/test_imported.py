"""Imported facts say how it was before, so figures never continue from a checkpoint that lacks one of them."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import orjson
import pytest
from pydantic import SecretStr

from analytics.book import Book
from analytics.compute import figures_of
from analytics.facts import fact_of, is_counted
from analytics.store import FigureStore
from local.stripe.builder import ApiShape, Json
from local.stripe.simulator.company import MONTH_S, Company
from local.stripe.simulator.lists import Api
from local.stripe.simulator.prices import PRICES, shown
from recovery.imports.objects import entries_of
from schemas.figures import Figure
from sinks.stripe_api.listing import ListPage
from tests.contract.analytics.test_analytics import Delivery, rows
from tests.kits.auditkit import CONFIG

END = 1_790_000_000


def history() -> list[Delivery]:
    """What an import makes of thirty customers after four months, and then their events of three further months."""
    company = Company(30, 7, 23, END)
    company.begin()
    company.live_until(END - 3 * MONTH_S)
    read_at = datetime.fromtimestamp(company.stripe.clock.now, UTC)
    api, page = Api(company.stripe.books, ApiShape.NEW, set()), ListPage([], False, read_at, None, str(ApiShape.NEW))
    objects: list[Json] = []
    for resource, more in (("subscriptions", {"status": "all"}), ("invoices", {})):
        objects += api.list(resource, {"limit": "100", **more})["data"]
    for line in (line for obj in objects if obj["object"] == "invoice" for line in obj["lines"]["data"]):
        price = (line["pricing"] or {}).get("price_details")
        line["price"] = shown(PRICES[price["price"]]) if price else None  # as recovery/imports/prices.py adds it
    made = [
        orjson.dumps(orjson.loads(entry.value))
        for obj in objects
        for entry in entries_of(obj, page, account="", livemode=False, now=read_at, began_at=read_at)
    ]
    before = len(company.stripe.books.events)
    company.live_until(END)
    made += [orjson.dumps(event.render()) for event in company.stripe.books.events[before:]]
    return [Delivery(orjson.loads(value)["type"], value) for value in made]


def expected(deliveries: list[Delivery]) -> set[Figure]:
    facts = [fact for one in deliveries if is_counted(one.type) and (fact := fact_of(one.value)) is not None]
    owners = {fact.of for fact in facts}
    return {row for of in owners for row in figures_of([fact for fact in facts if fact.of == of], CONFIG)}


@pytest.mark.parametrize("seed", range(3))
async def test_figures_after_an_import_do_not_depend_on_the_order(database: SecretStr, seed: int) -> None:
    chance, store = random.Random(seed), await FigureStore.connect(database)
    book = Book(store, CONFIG, tail_most=2, tail_kept=1)
    delivered = history()
    wanted = expected(delivered)
    if seed:
        chance.shuffle(delivered)
    while delivered:
        size = chance.randrange(1, 12)
        await book.take(delivered[:size])
        delivered = delivered[size:]
    assert await rows(store) == wanted
    await store.close()
