"""A simulated Stripe with one customer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from local.stripe.builder import ApiShape
from local.stripe.simulator import customers
from local.stripe.simulator.books import DAY_S, AccountSettings, Books, Json
from local.stripe.simulator.stripe import SimulatedStripe
from local.stripe.simulator.subscriptions import create_subscription

START = 1_767_225_600
"""2026-01-01."""
MONTH = 31 * DAY_S


class Scene:
    """A Stripe with one customer, who has a card."""

    def __init__(self, card: str = "ok", **settings: Any) -> None:
        self.stripe = SimulatedStripe(START, settings=AccountSettings(**settings))
        self.books: Books = self.stripe.books
        self.customer = customers.create_customer(self.books, email="ada@example.com", name="Ada Vo")
        self.card = customers.attach_card(self.books, self.customer, card)

    def subscribe(self, price: str = "price_pro", **more: Any) -> Json:
        return create_subscription(self.books, self.customer, [(price, more.pop("quantity", 1))], **more)

    def wait(self, seconds: int) -> Scene:
        self.stripe.clock.advance(seconds)
        return self

    def set_card(self, behavior: str) -> None:
        self.card["_behavior"] = behavior

    def latest(self, subscription: Json) -> Json:
        return self.books.get("invoice", subscription["latest_invoice"])

    def since(self, act: Callable[[], object]) -> list[str]:
        """The types of the events of this act."""
        before = len(self.books.events)
        act()
        return [event.type for event in self.books.events[before:]]

    def last(self, type_: str, shape: ApiShape = ApiShape.NEW) -> Json:
        return next(event for event in reversed(self.books.events) if event.type == type_).render(shape)
