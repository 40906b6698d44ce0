"""behaviours.md D2 in memory: whole histories of one customer, in every order, with repeated deliveries.

A history is a consistent sequence of events as Stripe sends them, some of them within one second. Applied in any other
order it must end in the same rows and pending timers, and send no mail that the original order does not send.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.stripe.builder import DAY_S, PRO, ApiShape, Json, Price, StripeEvents
from schemas.effects import SETTLE_A_TIE
from tests.examples import examples
from tests.kits.rulekit import NOW, RulesWorld, by_version, mail_counts

TEAM = Price("price_team", 9900)
ODD = Price("price_odd", 500, "jpy")
STRANGE_PAUSES = [0, 0, 1, 3600, DAY_S, 4 * DAY_S]
SLOW = (HealthCheck.too_slow,)
"""Slow data generation depends on the load of the machine, not on the rules."""


@dataclass(slots=True, repr=False)
class Story:
    """Builds a history step by step and tracks Stripe's state."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    clock: int = NOW
    events: list[Json] = field(default_factory=list)
    number: int = 0
    invoices: int = 0
    price: Price = PRO
    status: str = "none"
    created: int = NOW
    trial_end: int | None = None
    email: str = "jane@example.com"

    def send(self, type_: str, obj: Callable[[StripeEvents], Json], previous: Any = None) -> None:
        make = StripeEvents(self.draw(st.sampled_from(list(ApiShape))))
        before = previous(make) if callable(previous) else previous
        # Stripe's event ids are not ordered.
        id_ = f"evt_{self.draw(st.integers(0, 9))}_{len(self.events)}"
        self.events.append(make.event(type_, obj(make), self.clock, previous=before, id_=id_))

    def wait(self) -> None:
        self.clock += self.draw(st.sampled_from(STRANGE_PAUSES))

    def subscription(self, **more: Any) -> Callable[[StripeEvents], Json]:
        id_, price, status, created, trial_end = self.id, self.price, self.status, self.created, self.trial_end
        start = self.clock
        return lambda make: make.subscription(
            id_, price=price, status=status, start=start, created=created, trial_end=trial_end, **more
        )

    def invoice(self, status: str, **more: Any) -> Callable[[StripeEvents], Json]:
        id_, subscription, price, email, now = f"in_{self.invoices}", self.id, self.price, self.email, self.clock
        return lambda make: make.invoice(
            id_, subscription=subscription, price=price, status=status, created=now, email=email, **more
        )

    @property
    def id(self) -> str:
        return f"sub_{self.number}"

    def update(self, previous: Any, **more: Any) -> None:
        self.send("customer.subscription.updated", self.subscription(**more), previous)

    # -- steps ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.number, self.created, self.trial_end = self.number + 1, self.clock, None
        self.price = self.draw(st.sampled_from([PRO, TEAM, ODD]))
        self.status = self.draw(st.sampled_from(["active", "trialing", "incomplete"]))
        if self.status == "trialing":
            self.trial_end = self.clock + self.draw(st.sampled_from([3, 14])) * DAY_S
        self.send("customer.subscription.created", self.subscription())
        if self.status == "incomplete":
            self.first_payment()
        if self.status == "none":
            return
        if self.draw(st.booleans()):
            id_, now, plan = self.id, self.clock, self.draw(st.sampled_from([None, "pro", "team", "beta"]))
            self.send(
                "checkout.session.completed",
                lambda make: make.checkout_session(
                    f"cs_{id_}", subscription=id_, user="user_1", plan=plan, created=now
                ),
            )

    def first_payment(self) -> None:
        self.invoices += 1
        for attempt in range(1, self.draw(st.integers(0, 2)) + 1):
            self.send("invoice.payment_failed", self.invoice("open", attempts=attempt, reason="subscription_create"))
            self.clock += self.draw(st.sampled_from([1, 3600]))  # two attempts are never in one second
        if self.draw(st.booleans()):
            self.status = "active"
            self.send("invoice.paid", self.invoice("paid", reason="subscription_create"))
            self.update(self.draw(st.sampled_from([{"status": "incomplete"}, None])))
        else:
            self.status = "incomplete_expired"
            self.update({"status": "incomplete"})
            self.status = "none"

    def change_price(self) -> None:
        former = self.price
        self.price = self.draw(st.sampled_from([price for price in (PRO, TEAM, ODD) if price != former]))
        self.update(lambda make: make.price_change(former))

    def change_something(self) -> None:
        self.update({"cancel_at_period_end": False}, cancel_at_period_end=True)

    def end_trial(self) -> None:
        if self.status == "trialing":
            self.send("customer.subscription.trial_will_end", self.subscription())
            self.wait()
            self.status = "active"
            self.update({"status": "trialing"})

    def renew(self) -> None:
        if self.status == "trialing":
            return
        self.invoices += 1
        failures = self.draw(st.integers(0, 4))
        for attempt in range(1, failures + 1):
            self.clock += 1  # two attempts are never in one second
            retry = self.clock + 3 * DAY_S if attempt < 4 else None
            self.send("invoice.payment_failed", self.invoice("open", attempts=attempt, next_attempt=retry))
            if self.status != "past_due":
                self.status = "past_due"
                self.update({"status": "active"})
            self.wait()
        if failures and self.draw(st.booleans()):
            self.write_off()
        elif failures < 4 or self.draw(st.booleans()):
            self.send("invoice.paid", self.invoice("paid", attempts=failures + 1))
            self.send("invoice.payment_succeeded", self.invoice("paid", attempts=failures + 1))
            if self.status == "past_due":
                self.status = "active"
                self.update({"status": "past_due"})

    def write_off(self) -> None:
        type_ = self.draw(st.sampled_from(["invoice.voided", "invoice.marked_uncollectible"]))
        self.send(type_, self.invoice("void"))
        if type_ == "invoice.marked_uncollectible" and self.draw(st.booleans()):
            self.wait()
            self.send("invoice.paid", self.invoice("paid"))

    def confirm(self) -> None:
        self.invoices += 1
        self.send("invoice.payment_action_required", self.invoice("open"))

    def announce(self) -> None:
        self.send("invoice.upcoming", lambda make: make.invoice(None, subscription=f"sub_{max(1, self.number)}"))

    def cancel(self) -> None:
        self.status = "canceled"
        self.send("customer.subscription.deleted", self.subscription(canceled_at=self.clock, ended_at=self.clock))
        self.status = "none"

    def move(self) -> None:
        former, self.email = self.email, self.draw(st.sampled_from(["a@example.com", "b@example.com"]))
        email = self.email
        self.send("customer.updated", lambda make: make.customer(email=email), {"email": former})

    def touch(self) -> None:
        email = self.email
        self.send("customer.updated", lambda make: make.customer(email=email), {"metadata": {}})


@st.composite
def histories(draw: Callable[[st.SearchStrategy[Any]], Any]) -> list[Json]:
    story = Story(draw)
    if draw(st.booleans()):
        story.send("customer.created", lambda make: make.customer())
    for _ in range(draw(st.integers(1, 7))):
        story.wait()
        if story.status == "none":
            step = draw(st.sampled_from([story.begin, story.begin, story.begin, story.move, story.touch]))
        else:
            alive = [story.change_price, story.change_something, story.end_trial, story.renew, story.confirm]
            step = draw(st.sampled_from([*alive, story.announce, story.cancel, story.cancel, story.move, story.touch]))
        step()
    if draw(st.integers(0, 5)) == 0:
        story.wait()
        story.send("customer.deleted", lambda _: {"id": "cus_1", "object": "customer", "deleted": True})
    return story.events


class Delivery:
    """A history in its original order, and the same events in any order with some delivered again."""

    def __init__(self, history: list[Json], delivered: list[Json]) -> None:
        self.history, self.delivered = history, delivered

    def __repr__(self) -> str:
        """Short enough to be read when a test fails."""

        def line(event: Json) -> str:
            obj = event["data"]["object"]
            return f"{event['created'] - NOW:>9} {event['id']} {event['type']} {obj.get('id')} {obj.get('status', '')}"

        listed = [[line(event) for event in events] for events in (self.history, self.delivered)]
        return "\n".join(["happened", *listed[0], "delivered", *listed[1]])


def settled_mails(world: RulesWorld, *others: RulesWorld) -> Counter[str]:
    """Counts the mails that do not depend on what is stored when their event arrives.

    A renewal reminder does: it is withheld right before sending if it is not true. Where a world asks Stripe about a
    tie, mails about the price wait for the answer.
    """
    has_question = any(call.purpose == SETTLE_A_TIE for one in (world, *others) for call in one.calls.values())
    left_out = ("renewal", "plan-changed") if has_question else ("renewal",)
    return Counter({key: n for key, n in mail_counts(world.emails).items() if not key.startswith(left_out)})


@st.composite
def deliveries(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Delivery:
    history = by_version(draw(histories()))
    places = range(len(history))  # indexes, not events: hypothesis prints the values that it samples from
    again = draw(st.lists(st.sampled_from(places), max_size=4))
    return Delivery(history, [history[at] for at in draw(st.permutations([*places, *again]))])


@settings(max_examples=examples(200), deadline=None, suppress_health_check=SLOW)
@given(deliveries())
def test_D2_every_order_ends_in_the_same_state_and_sends_no_more_mail(delivery: Delivery) -> None:
    ordered, other = RulesWorld().apply(*delivery.history), RulesWorld().apply(*delivery.delivered)
    assert other.state() == ordered.state()
    assert settled_mails(other, ordered) <= settled_mails(ordered, other)


@settings(max_examples=examples(30), deadline=None, suppress_health_check=SLOW)
@given(deliveries())
def test_D1_a_second_delivery_of_everything_changes_nothing(delivery: Delivery) -> None:
    """The rules are idempotent even without the ledger."""
    once = RulesWorld().apply(*delivery.history)
    state, mails = once.state(), settled_mails(once)
    once.apply(*delivery.history)
    assert once.state() == state
    assert settled_mails(once) == mails
