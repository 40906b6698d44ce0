"""Random billing histories of customers, delivered as Stripe does: repeated, out of order, and partly malformed.

The same seed and time give the same deliveries, byte for byte except for the request ids.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from local.stripe.builder import DAY_S, MONTH_S, ApiShape, Json, Price, StripeEvents

DUPLICATES, SHUFFLED, POISON = 0.10, 0.30, 0.01
"""Shares: duplicates among the deliveries; events delivered late; malformed events."""

_PRICES = (
    Price("price_starter_monthly", 900, "eur", nickname="Starter"),
    Price("price_pro_monthly", 2900, "eur", nickname="Pro"),
    Price("price_yen", 3000, "jpy", nickname="Yen"),
    Price("price_dinar", 12345, "kwd", interval="year", nickname="Dinar"),
)
_FARTHEST = 6
"""Largest number of places that an event is late by."""
_DUPLICATE_WITHIN = 400
"""Largest number of deliveries between an event and its duplicate."""


@dataclass(frozen=True, slots=True)
class PostedEvent:
    """One event to post."""

    event_id: str
    body: bytes
    is_poison: bool = False


@dataclass(slots=True)
class _Life:
    """Endless events of one customer. A step yields a few; times advance by seconds to minutes, periods by months."""

    make: StripeEvents
    chance: random.Random
    customer: str
    at: int
    email: str = ""
    subscriptions: int = 0
    invoices: int = 0
    cards: int = 0
    price: Price = field(default_factory=Price)
    subscription: str = ""
    created: int = 0
    start: int = 0
    trial_end: int | None = None

    def run(self) -> Iterator[Json]:
        self.email = f"{self.customer}@example.com"
        yield self._event("customer.created", self._customer())
        while True:
            yield from self._subscribe()
            for _ in range(self.chance.randrange(1, 6)):
                self.at += self.chance.randrange(1, 400)
                yield from self.chance.choice(_STEPS)(self)
            self.at += self.chance.randrange(1, 400)
            ended = self._subscription(status="canceled", canceled_at=self.at, ended_at=self.at)
            yield self._event("customer.subscription.deleted", ended)
            self.at += self.chance.randrange(1, 400)

    def _subscribe(self) -> Iterator[Json]:
        self.subscriptions += 1
        self.subscription = f"sub_{self.customer}_{self.subscriptions}"
        self.price = self.chance.choice(_PRICES)
        self.created = self.start = self.at
        kind = self.chance.random()
        # One trial in four ends so soon that its reminder fires at once.
        self.trial_end = None if kind < 0.5 else self.at + (3 if kind > 0.87 else 14) * DAY_S
        status = "trialing" if self.trial_end else "incomplete"
        yield self._event("customer.subscription.created", self._subscription(status=status))
        if self.chance.random() < 0.6:
            session = self.make.checkout_session(
                f"cs_{self.customer}_{self.subscriptions}",
                customer=self.customer,
                subscription=self.subscription,
                email=self.email,
                user=f"user_{self.customer}",
                plan=self.chance.choice((None, "pro")),
                created=self.at,
            )
            yield self._event("checkout.session.completed", session)
        invoice = self._new_invoice()
        amount = 0 if self.trial_end else None
        yield self._event("invoice.created", self._invoice(invoice, amount=amount))
        yield from self._paid(invoice, "subscription_create", amount)
        if not self.trial_end:
            active = self._subscription(status="active")
            yield self._event("customer.subscription.updated", active, {"status": "incomplete"})
            return
        self.at += self.chance.randrange(1, 400)
        if self.chance.random() < 0.5:
            yield self._event("customer.subscription.trial_will_end", self._subscription(status="trialing"))
        if self.chance.random() < 0.7:
            self.at += self.chance.randrange(1, 400)
            self.trial_end = None
            yield self._event(
                "customer.subscription.updated", self._subscription(status="active"), {"status": "trialing"}
            )

    def _renew(self) -> Iterator[Json]:
        if self.chance.random() < 0.3:
            upcoming = self._invoice(None, status="draft", reason="upcoming", next_attempt=self.at + DAY_S)
            yield self._event("invoice.upcoming", upcoming)
        before, self.start = self.start, self.start + MONTH_S
        yield self._event("customer.subscription.updated", self._subscription(), {"current_period_start": before})
        invoice = self._new_invoice()
        yield self._event("invoice.created", self._invoice(invoice))
        yield from self._paid(invoice, "subscription_cycle", None)

    def _fail(self) -> Iterator[Json]:
        invoice = self._new_invoice()
        if self.chance.random() < 0.3:
            yield self._event("invoice.payment_action_required", self._invoice(invoice))
        attempts = self.chance.randrange(1, 5)
        for attempt in range(1, attempts + 1):
            next_attempt = None if attempt == 4 else self.at + 3 * DAY_S
            failed = self._invoice(invoice, attempts=attempt, next_attempt=next_attempt)
            yield self._event("invoice.payment_failed", failed)
            if attempt == 1:
                past_due = self._subscription(status="past_due")
                yield self._event("customer.subscription.updated", past_due, {"status": "active"})
            self.at += self.chance.randrange(1, 400)
        if self.chance.random() < 0.7:
            yield from self._paid(invoice, "subscription_cycle", None)
            yield self._event("customer.subscription.updated", self._subscription(), {"status": "past_due"})

    def _change_plan(self) -> Iterator[Json]:
        former, self.price = self.price, self.chance.choice(_PRICES)
        change = self.make.price_change(former)
        yield self._event("customer.subscription.updated", self._subscription(), change)
        if self.chance.random() < 0.3:  # back within the same second: a tie that only Stripe can resolve
            self.price, changed = former, self.price
            yield self._event("customer.subscription.updated", self._subscription(), self.make.price_change(changed))

    def _move(self) -> Iterator[Json]:
        before, self.email = self.email, f"{self.customer}.{self.chance.randrange(1000)}@example.com"
        yield self._event("customer.updated", self._customer(), {"email": before})

    def _refund(self) -> Iterator[Json]:
        """A paid and refunded invoice. Since basil only `invoice_payment.paid` links them, and it has no customer."""
        invoice = self._new_invoice()
        yield from self._paid(invoice, "subscription_cycle", None)
        own = invoice.removeprefix("in_")
        if self.make.shape is ApiShape.NEW:
            payment = {"type": "payment_intent", "payment_intent": f"pi_{own}"}
            link = {"id": f"inpay_{own}", "object": "invoice_payment", "invoice": invoice, "payment": payment}
            yield self._event("invoice_payment.paid", link)
        yield self._event("charge.succeeded", self._charge(own, 0))
        self.at += self.chance.randrange(1, 400)
        yield self._event("charge.refunded", self._charge(own, self.price.amount // self.chance.randrange(1, 4)))

    def _new_card(self) -> Iterator[Json]:
        self.cards += 1
        card = {"brand": "visa", "last4": f"{self.cards:04}", "exp_month": 12, "exp_year": 2099}
        id_ = f"pm_{self.customer}_{self.cards}"
        method = {"id": id_, "object": "payment_method", "type": "card", "card": card, "customer": self.customer}
        yield self._event("payment_method.attached", method)

    def _noise(self) -> Iterator[Json]:
        yield self._event("invoice.finalized", self._invoice(self._new_invoice()))
        yield self._event("customer.discount.created", {"object": "discount", "customer": self.customer})

    def _paid(self, invoice: str, reason: str, amount: int | None) -> Iterator[Json]:
        """Stripe sends both events for one payment, in either order."""
        types = ["invoice.paid", "invoice.payment_succeeded"]
        self.chance.shuffle(types)
        for type_ in types:
            yield self._event(type_, self._invoice(invoice, status="paid", reason=reason, amount=amount))

    def _new_invoice(self) -> str:
        self.invoices += 1
        return f"in_{self.customer}_{self.invoices}"

    def _charge(self, own: str, refunded: int) -> Json:
        charge = {
            "id": f"ch_{own}",
            "object": "charge",
            "amount": self.price.amount,
            "amount_refunded": refunded,
            "created": self.at,
            "currency": self.price.currency,
            "customer": self.customer,
            "paid": True,
            "payment_intent": f"pi_{own}",
            "refunded": refunded == self.price.amount,
            "status": "succeeded",
        }
        return charge | ({"invoice": f"in_{own}"} if self.make.shape is ApiShape.OLD else {})

    def _customer(self) -> Json:
        return self.make.customer(self.customer, email=self.email, name=f"Name of {self.customer}", created=self.at)

    def _subscription(self, status: str = "active", **more: Any) -> Json:
        return self.make.subscription(
            self.subscription,
            customer=self.customer,
            status=status,
            price=self.price,
            start=self.start,
            created=self.created,
            trial_end=self.trial_end,
            **more,
        )

    def _invoice(self, invoice: str | None, **more: Any) -> Json:
        subscription, price, at = self.subscription, self.price, self.at
        return self.make.invoice(
            invoice,
            customer=self.customer,
            subscription=subscription,
            price=price,
            created=at,
            email=self.email,
            **more,
        )

    def _event(self, type_: str, obj: Json, previous: Json | None = None) -> Json:
        id_ = f"evt_{self.chance.getrandbits(96):024x}"
        return self.make.event(type_, obj, self.at, previous=previous, id_=id_)


_STEPS = (
    _Life._renew,
    _Life._renew,
    _Life._fail,
    _Life._fail,
    _Life._change_plan,
    _Life._move,
    _Life._refund,
    _Life._new_card,
    _Life._noise,
)


def in_order(seed: int, events: int, customers: int, now: int) -> list[list[Json]]:
    """Each customer's events in the order in which they happened, in the hours before `now` (seconds since epoch)."""
    chance = random.Random(seed)
    lives = []
    for number in range(customers):
        share = events // customers + (number < events % customers)
        # Late enough that no reminder of a due invoice falls into the run.
        life = _Life(
            StripeEvents(chance.choice(tuple(ApiShape))),
            random.Random(chance.getrandbits(64)),
            f"cus_{seed}_{number}",
            now - 43_200,
        ).run()
        lives.append(_with_some_malformed([event for event, _ in zip(life, range(share), strict=False)], chance))
    return lives


def deliveries(seed: int, lives: list[list[Json]]) -> list[PostedEvent]:
    """The deliveries: customers interleaved, some events late, some sent twice."""
    chance = random.Random(seed + 1)
    placed: list[tuple[float, PostedEvent]] = []
    for life in lives:
        late = [
            place + (chance.uniform(0, _FARTHEST) if chance.random() < SHUFFLED else 0) for place in range(len(life))
        ]
        moments = sorted(chance.random() for _ in life)
        for moment, (_, event) in zip(
            moments, sorted(zip(late, life, strict=True), key=lambda pair: pair[0]), strict=True
        ):
            placed.append((moment, _delivery(event)))
    placed.sort(key=lambda pair: pair[0])
    spread = _DUPLICATE_WITHIN / max(1, len(placed))
    share = DUPLICATES / (1 - DUPLICATES)
    again = [(moment + chance.uniform(0, spread), sent) for moment, sent in placed if chance.random() < share]
    return [sent for _, sent in sorted(placed + again, key=lambda pair: pair[0])]


def _delivery(event: Json) -> PostedEvent:
    return PostedEvent(event["id"], orjson.dumps(event), is_poison="spoilt" in event)


def _with_some_malformed(events: list[Json], chance: random.Random) -> list[Json]:
    """Break a share of POISON of the events. If an event cannot be broken, the next possible one is broken."""
    owed, found = 0, []
    for event in events:
        owed += chance.random() < POISON
        spoilt = _malformed(event, chance) if owed else None
        owed -= spoilt is not None
        found.append(spoilt or event)
    return found


def _malformed(event: Json, chance: random.Random) -> Json | None:
    """The event with a value that its model rejects, so none of its data is applied; None if it cannot be broken."""
    obj = event["data"]["object"]
    match obj["object"]:
        case "subscription":
            obj["status"] = "frozen"
        case "invoice" if event["type"] in ("invoice.paid", "invoice.payment_succeeded", "invoice.payment_failed"):
            obj |= chance.choice(({"currency": "zzz"}, {"amount_due": "29.00"}, {"attempt_count": -1}))
        case "customer":
            obj["email"] = 42
        case "checkout.session":
            obj["mode"] = "barter"
        case _:
            return None
    return event | {"spoilt": True}
