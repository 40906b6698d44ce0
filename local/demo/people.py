"""The demo's customers, and what its story consists of: deliveries, expected timers, leaps of the clock."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import orjson

from local.stripe.builder import Json, Price, StripeEvents


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An expected timer: when it is due, in seconds since the epoch, and the mails it queues."""

    who: str
    customer_id: str
    kind: str
    what: str
    at: int
    mails: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeap:
    """Moves the clock to `days` days after the start. `fires` are the timers that become due."""

    days: int
    fires: tuple[Due, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoStep:
    """One delivery. `outcome` is the expected outcome in the ledger, None if the ledger must not have the event.

    `mails` are the templates that the event queues. `fires` are timers that it sets and that are due at once.
    `is_again` marks a duplicate, `is_forged` a wrong signature.
    """

    who: str
    what: str
    event: Json
    customer_id: str
    fires: tuple[Due, ...] = ()
    outcome: str | None = "applied"
    mails: tuple[str, ...] = ()
    answer: int = 200
    endpoint: str = "default"
    is_forged: bool = False
    is_again: bool = False

    @property
    def body(self) -> bytes:
        return orjson.dumps(self.event)


@dataclass(slots=True)
class DemoPerson:
    """A customer with new ids, so that the story can run again on the same database."""

    name: str
    make: StripeEvents
    run: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def short(self) -> str:
        return self.name.split()[0]

    @property
    def email(self) -> str:
        return f"{self.short.lower()}@example.com"

    @property
    def customer_id(self) -> str:
        return f"cus_{self.short}{self.run}"

    @property
    def subscription_id(self) -> str:
        return f"sub_{self.short}{self.run}"

    def created(self, at: int) -> DemoStep:
        return self.step("signs up", "customer.created", self.customer(at), at)

    def customer(self, at: int) -> Json:
        return self.make.customer(self.customer_id, email=self.email, name=self.name, created=at)

    def subscription(self, price: Price, start: int, **more: Any) -> Json:
        return self.make.subscription(self.subscription_id, customer=self.customer_id, price=price, start=start, **more)

    def invoice(self, number: int, price: Price, created: int, **more: Any) -> Json:
        return self.make.invoice(
            f"in_{self.short}{self.run}{number}",
            customer=self.customer_id,
            subscription=self.subscription_id,
            price=price,
            created=created,
            email=self.email,
            name=self.name,
            **more,
        )

    def step(
        self, what: str, type_: str, obj: Json, at: int, *, previous: Json | None = None, **expected: Any
    ) -> DemoStep:
        event = self.make.event(type_, obj, at, previous=previous)
        return DemoStep(who=self.short, what=what, event=event, customer_id=self.customer_id, **expected)

    def due(self, kind: str, what: str, at: int, *mails: str) -> Due:
        return Due(who=self.short, customer_id=self.customer_id, kind=kind, what=what, at=at, mails=mails)
