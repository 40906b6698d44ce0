"""The demo's story: three customers' billing lives as signed events, with what has to come of each."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from local.stripe_events import DAY_S, MONTH_S, Json, Price, Shape, StripeEvents

STARTER = Price("price_starter_monthly", 1900, "eur", "month", "Starter")
PRO = Price("price_pro_monthly", 4900, "eur", "month", "Pro")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One delivery. `outcome` is the ledger's, None where nothing may reach it; `mails` are what the event queues."""

    who: str
    what: str
    event: Json
    outcome: str | None = "applied"
    mails: tuple[str, ...] = ()
    answer: int = 200
    endpoint: str = "default"
    is_forged: bool = False
    is_again: bool = False

    @property
    def body(self) -> bytes:
        return orjson.dumps(self.event)

    @property
    def customer_id(self) -> str | None:
        o: dict[str, Any] = self.event["data"]["object"]
        return o["id"] if o["object"] == "customer" else o.get("customer")


@dataclass(slots=True)
class Person:
    """A customer with fresh ids, so that the story can be told again on the same state."""

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

    def created(self, at: int) -> Step:
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

    def step(self, what: str, type_: str, obj: Json, at: int, *, previous: Json | None = None, **expected: Any) -> Step:
        return Step(who=self.short, what=what, event=self.make.event(type_, obj, at, previous=previous), **expected)


def story(now: int) -> list[Step]:
    """All deliveries in their order. `now` is in seconds since the epoch; the lives begin a month before it."""
    return [*_ada(now), *_ben(now), *_cleo(now), *_trouble(now)]


def _ada(now: int) -> Sequence[Step]:
    """A trial that becomes a paid subscription, and grows."""
    ada = Person("Ada Lovelace", StripeEvents())
    start, trial_end = now - 16 * DAY_S, now - 2 * DAY_S
    trial: Json = {"status": "trialing", "trial_start": start, "trial_end": trial_end, "end": trial_end}
    paid = ada.invoice(1, STARTER, trial_end, status="paid")
    subscribed = ada.step(
        "starts a trial",
        "customer.subscription.created",
        ada.subscription(STARTER, start, **trial),
        start + 2,
        mails=("subscription-welcome",),
    )
    active = ada.subscription(STARTER, trial_end, created=start, trial_start=start, trial_end=trial_end)
    grown = ada.subscription(PRO, trial_end, created=start, trial_start=start, trial_end=trial_end)
    receipt = ada.step("first payment", "invoice.paid", paid, trial_end + 60, mails=("payment-receipt",))
    session = ada.make.checkout_session(
        f"cs_{ada.run}",
        customer=ada.customer_id,
        subscription=ada.subscription_id,
        amount=0,
        payment_status="no_payment_required",
        email=ada.email,
        name=ada.name,
        user=f"user_{ada.run}",
        created=start,
    )
    return [
        ada.created(start),
        subscribed,
        replace(subscribed, what="Stripe sends it again", outcome=None, mails=(), is_again=True),
        ada.step("checkout links her user", "checkout.session.completed", session, start + 3),
        ada.step(
            "trial ends in 3 days",
            "customer.subscription.trial_will_end",
            ada.subscription(STARTER, start, **trial),
            trial_end - 3 * DAY_S,
            mails=("trial-ending",),
        ),
        ada.step("trial becomes paid", "customer.subscription.updated", active, trial_end + 30),
        receipt,
        ada.step("the same payment's other event", "invoice.payment_succeeded", paid, trial_end + 60),
        replace(receipt, what="Stripe sends it again", outcome=None, mails=(), is_again=True),
        ada.step(
            "upgrades to Pro",
            "customer.subscription.updated",
            grown,
            now - 3600,
            previous=ada.make.price_change(STARTER),
            mails=("plan-changed",),
        ),
        ada.step(
            "an update from before arrives late", "customer.subscription.updated", active, now - 7200, outcome="stale"
        ),
    ]


def _ben(now: int) -> Sequence[Step]:
    """A card that is declined twice, and then pays. His events have the older API shape."""
    ben = Person("Ben Franklin", StripeEvents(Shape.OLD))
    start = now - MONTH_S - DAY_S
    due = start + MONTH_S
    past_due = ben.subscription(PRO, due, created=start, status="past_due")
    return [
        ben.created(start),
        ben.step(
            "an update arrives before its creation",
            "customer.subscription.updated",
            ben.subscription(PRO, start),
            start + 20,
            mails=(),
        ),
        ben.step(
            "the creation comes after it",
            "customer.subscription.created",
            ben.subscription(PRO, start),
            start + 2,
            outcome="stale",
            mails=("subscription-welcome",),
        ),
        ben.step(
            "first payment",
            "invoice.paid",
            ben.invoice(1, PRO, start, status="paid"),
            start + 21,
            mails=("payment-receipt",),
        ),
        ben.step(
            "the card is declined",
            "invoice.payment_failed",
            ben.invoice(2, PRO, due, attempts=1, next_attempt=due + 3600),
            due + 60,
            mails=("payment-failed",),
        ),
        ben.step("Stripe says past due", "customer.subscription.updated", past_due, due + 61),
        ben.step(
            "declined again",
            "invoice.payment_failed",
            ben.invoice(2, PRO, due, attempts=2, next_attempt=due + 7200),
            due + 3600,
            mails=("payment-urgent",),
        ),
        ben.step(
            "the new card pays",
            "invoice.paid",
            ben.invoice(2, PRO, due, status="paid", attempts=3, paid_at=due + 5000),
            due + 5000,
            mails=("payment-receipt",),
        ),
    ]


def _cleo(now: int) -> Sequence[Step]:
    """A customer who leaves."""
    cleo = Person("Cleo Patra", StripeEvents())
    start = now - 20 * DAY_S
    gone = cleo.subscription(STARTER, start, status="canceled", canceled_at=now - 60, ended_at=now - 60)
    return [
        cleo.created(start),
        cleo.step(
            "subscribes",
            "customer.subscription.created",
            cleo.subscription(STARTER, start),
            start + 2,
            mails=("subscription-welcome",),
        ),
        cleo.step(
            "pays",
            "invoice.paid",
            cleo.invoice(1, STARTER, start, status="paid"),
            start + 3,
            mails=("payment-receipt",),
        ),
        cleo.step(
            "cancels",
            "customer.subscription.deleted",
            gone,
            now - 60,
            mails=("churn-survey", "subscription-canceled"),
        ),
    ]


def _trouble(now: int) -> Sequence[Step]:
    """What must not get through, and what must not get lost."""
    eve = Person("Eve Dropper", StripeEvents())
    broken = eve.subscription(STARTER, now - 30, status="on_fire")
    return [
        Step(
            who="Eve",
            what="a forged signature",
            event=eve.make.event("invoice.paid", eve.invoice(1, PRO, now, status="paid"), now),
            outcome=None,
            answer=400,
            is_forged=True,
        ),
        Step(
            who="Eve",
            what="a test event at the live endpoint",
            event=eve.make.event("invoice.paid", eve.invoice(2, PRO, now, status="paid"), now),
            outcome=None,
            answer=400,
            endpoint="live",
        ),
        eve.step("a status that does not exist", "customer.subscription.updated", broken, now - 30, outcome="dead"),
        eve.step(
            "a type nobody asks for", "product.created", {"id": "prod_1", "object": "product"}, now, outcome="ignored"
        ),
    ]
