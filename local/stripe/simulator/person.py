"""One simulated person: their Stripe customers, and what can be found of them in the books."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from local.stripe.simulator import customers
from local.stripe.simulator.books import Books, Json
from local.stripe.simulator.refunds import refundable
from local.stripe.simulator.stripe import SimulatedStripe

RUNNING = ("active", "past_due", "unpaid", "trialing")


@dataclass(repr=False)
class SimulatedPerson:
    """`random` decides what a step leaves open; each step has its own."""

    stripe: SimulatedStripe
    books: Books
    random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311  # a simulation
    user: str = "user_1"
    name: str = "Ada Vo"
    mailbox: str = "ada"
    steps: Counter[str] = field(default_factory=Counter)
    """The steps that applied, by name."""
    own: list[str] = field(default_factory=list)
    """Ids of this person's customers."""

    def chance(self, of: float = 0.5) -> bool:
        return self.random.random() < of

    def pick(self, found: Sequence[Json]) -> Json | None:
        return self.random.choice(found) if found else None

    def customers(self) -> list[Json]:
        """This person's customers that are not deleted, oldest first."""
        return [self.books.get("customer", id_) for id_ in self.own if not customers.is_deleted(self.books, id_)]

    def customer(self) -> Json | None:
        present = self.customers()
        return present[-1] if present else None

    def address(self) -> str:
        """The address that a new customer of this person has: a person may use several."""
        return f"{self.mailbox}{len(self.own) + 1 if self.own else ''}@example.com"

    def of(self, kind: str, *statuses: str) -> list[Json]:
        found = [one for id_ in self.own for one in self.books.of(kind, id_)]
        return [one for one in found if not statuses or one["status"] in statuses]

    def subscription(self, *statuses: str) -> Json | None:
        return self.pick(self.of("subscription", *(statuses or RUNNING)))

    def charges(self) -> list[Json]:
        return [one for one in self.of("charge", "succeeded") if refundable(one) > 0]
