"""behaviours.md D2 for payments, refunds, disputes and payment methods: the result is the same for every order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.stripe import payments as pay
from local.stripe.builder import DAY_S, ApiShape, Json, StripeEvents
from schemas.settings import Config, Rules
from schemas.statuses import PaymentStatus
from tests.examples import examples
from tests.kits.paymentkit import AT_ONCE, PatientWorld
from tests.kits.rulekit import CONFIG, NOW, by_version

PAUSES = [0, 0, 1, 3600, DAY_S, 9 * DAY_S]
RENEWED = [
    "payment_method.updated",
    "payment_method.automatically_updated",
    "payment_method.card_automatically_updated",
]
SLOW = (HealthCheck.too_slow,)
"""Slow data generation depends on the load of the machine, not on the rules."""


@dataclass(slots=True, repr=False)
class Story:
    """Builds a history step by step and tracks Stripe's state. Each event uses a random API shape."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    clock: int = NOW
    events: list[Json] = field(default_factory=list)

    def send(self, type_: str, obj: Callable[[StripeEvents], Json], previous: Json | None = None) -> None:
        make = StripeEvents(self.draw(st.sampled_from(list(ApiShape))))
        id_ = f"evt_{self.draw(st.integers(0, 9))}_{len(self.events)}"
        self.events.append(make.event(type_, obj(make), self.clock, previous=previous, id_=id_))

    def wait(self) -> None:
        self.clock += self.draw(st.sampled_from(PAUSES))


@dataclass(slots=True, repr=False)
class PaymentStory(Story):
    """One invoice: failed attempts, its payment, partial refunds of which some fail, disputes."""

    refunded: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    disputes: dict[str, str] = field(default_factory=dict)

    def fail(self, attempt: int) -> None:
        reason = f"Declined, try {attempt}."
        charge = f"ch_failed_{attempt}"
        self.send("charge.failed", lambda make: pay.charge(make, charge, failure=reason))
        self.send("payment_intent.payment_failed", lambda make: pay.payment_intent(make, failure=reason))
        # The invoice's event contains a reason only if the payment intent is expanded.
        expanded: Json = {"payment_intent": {"id": "pi_1", "last_payment_error": {"message": reason}}}
        more: Json = expanded if self.draw(st.booleans()) else {}
        self.send("invoice.payment_failed", lambda make: make.invoice(attempts=attempt, **more))

    def succeed(self) -> None:
        self.send("charge.succeeded", lambda make: pay.charge(make))
        self.send("payment_intent.succeeded", lambda make: pay.payment_intent(make, charge="ch_1"))
        self.send("invoice.paid", lambda make: make.invoice(status="paid", created=self.clock))
        self.send("invoice_payment.paid", lambda make: pay.invoice_payment(make))

    def refund(self) -> None:
        id_, amount = f"re_{len(self.refunded) + 1}", self.draw(st.integers(1, 500))
        is_pending = self.draw(st.booleans())
        self.refunded[id_] = amount
        total = sum(self.refunded.values())
        if self.draw(st.booleans()):
            status = "pending" if is_pending else "succeeded"
            self.send("refund.created", lambda make: pay.refund(make, id_, amount=amount, status=status))
        self.send("charge.refunded", lambda make: pay.charge(make, refunded=total))
        if is_pending:
            self.wait()
            is_lost = self.draw(st.booleans())
            if is_lost:
                self.refunded[id_] = 0
                self.send("refund.failed", lambda make: pay.refund(make, id_, amount=amount, status="failed"))
            type_ = self.draw(st.sampled_from(["refund.updated", "charge.refund.updated"]))
            status = "failed" if is_lost else "succeeded"
            self.send(type_, lambda make: pay.refund(make, id_, amount=amount, status=status))
            self.clock += is_lost  # banks take days, so a failed refund and the next total never share a second
            if is_lost:
                self.lost[id_] = amount

    def note(self) -> None:
        """An operator changes the metadata of a refund that was lost long ago."""
        if self.lost:
            id_ = self.draw(st.sampled_from(sorted(self.lost)))
            amount = self.lost[id_]
            self.send("refund.updated", lambda make: pay.refund(make, id_, amount=amount, status="failed"))

    def dispute(self) -> None:
        id_, due_by = f"dp_{len(self.disputes) + 1}", self.clock + 9 * DAY_S
        begun = self.clock
        self.disputes[id_] = "needs_response"

        def send(type_: str, status: str) -> None:
            self.disputes[id_] = status
            self.send(type_, lambda make: pay.dispute(make, id_, status=status, due_by=due_by, created=begun))

        send("charge.dispute.created", "needs_response")
        self.wait()
        send("charge.dispute.funds_withdrawn", "needs_response")
        if self.draw(st.booleans()):
            self.wait()
            due_by += DAY_S
            send("charge.dispute.updated", self.draw(st.sampled_from(["needs_response", "under_review"])))
        if self.draw(st.booleans()):
            self.wait()
            outcome = self.draw(st.sampled_from(["won", "lost"]))
            send("charge.dispute.closed", outcome)
            if outcome == "won":
                self.wait()
                send("charge.dispute.funds_reinstated", outcome)


@dataclass(slots=True, repr=False)
class MethodStory(Story):
    """One customer's cards: attached, renewed, detached; the default is also set manually."""

    attached: dict[str, tuple[int, int]] = field(default_factory=dict)
    count: int = 0
    default: str | None = None

    def card(self, id_: str, expiry: tuple[int, int], customer: str | None = "cus_1") -> Callable[[StripeEvents], Json]:
        return lambda make: pay.payment_method(make, id_, expiry=expiry, customer=customer, created=NOW)

    def attach(self) -> None:
        self.count += 1
        id_ = f"pm_{self.count}"
        self.attached[id_] = self.draw(st.sampled_from([(2027, 1), (2027, 2), (2027, 3), (2029, 12)]))
        self.send("payment_method.attached", self.card(id_, self.attached[id_]))

    def renew(self) -> None:
        id_ = self.draw(st.sampled_from(sorted(self.attached)))
        year, month = self.attached[id_]
        self.clock += 1  # an expiry is never moved twice in one second
        self.attached[id_] = (year + 1, month)
        type_ = self.draw(st.sampled_from(RENEWED))
        self.send(type_, self.card(id_, self.attached[id_]), {"card": {"exp_year": year}})

    def detach(self) -> None:
        id_ = self.draw(st.sampled_from(sorted(self.attached)))
        expiry = self.attached.pop(id_)
        self.send("payment_method.detached", self.card(id_, expiry, customer=None), {"customer": "cus_1"})
        if self.draw(st.booleans()):
            self.choose(None)

    def choose(self, default: str | None) -> None:
        self.clock += 1
        settings_ = {"custom_fields": None, "default_payment_method": default, "footer": None}
        self.send(
            "customer.updated",
            lambda make: make.customer(invoice_settings=settings_),
            {"invoice_settings": {"default_payment_method": None}},
        )

    def choose_any(self) -> None:
        self.choose(self.draw(st.sampled_from([*sorted(self.attached), None])))


class Delivery:
    """A history in its original order, the same events reordered and partly repeated, and the expected final state."""

    def __init__(self, history: list[Json], delivered: list[Json], story: Story) -> None:
        self.history, self.delivered, self.story = history, delivered, story

    def __repr__(self) -> str:
        def line(event: Json) -> str:
            obj = event["data"]["object"]
            return f"{event['created'] - NOW:>9} {event['id']} {event['type']} {obj.get('id')} {obj.get('status', '')}"

        listed = [[line(event) for event in events] for events in (self.history, self.delivered)]
        return "\n".join(["happened", *listed[0], "delivered", *listed[1]])


def _delivery(draw: Callable[[st.SearchStrategy[Any]], Any], story: Story) -> Delivery:
    history = by_version(story.events)
    places = range(len(history))  # indexes, not events: hypothesis prints the values that it samples from
    again = draw(st.lists(st.sampled_from(places), max_size=4))
    return Delivery(history, [history[at] for at in draw(st.permutations([*places, *again]))], story)


@st.composite
def payments(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Delivery:
    story = PaymentStory(draw)
    for attempt in range(1, draw(st.integers(0, 2)) + 1):
        story.fail(attempt)
        story.clock += 1 + draw(st.sampled_from(PAUSES))
    story.succeed()
    for step in draw(st.lists(st.sampled_from([story.refund, story.note, story.dispute]), max_size=6)):
        story.wait()
        step()
    return _delivery(draw, story)


@st.composite
def methods(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Delivery:
    story = MethodStory(draw)
    if draw(st.booleans()):
        story.send("customer.created", lambda make: make.customer())
    story.attach()
    for _ in range(draw(st.integers(0, 6))):
        story.wait()
        steps = [story.attach, story.choose_any]
        if story.attached:
            steps += [story.renew, story.detach, story.detach]
        draw(st.sampled_from(steps))()
    return _delivery(draw, story)


def _check(delivery: Delivery, config: Config) -> PatientWorld:
    """Checks that rows and timers are equal before and after the later timers fire, and that no mail is added."""
    ordered = PatientWorld(config).apply(*delivery.history).fire(*AT_ONCE)
    other = PatientWorld(config).apply(*delivery.delivered).fire(*AT_ONCE)
    assert (ordered.waiting, other.waiting) == ([], [])
    assert other.state() == ordered.state()
    assert other.fire().state() == ordered.fire().state()
    assert set(other.emails) <= set(ordered.emails)
    assert _method_mails(other) <= _method_mails(_in_real_time(delivery.history, config))
    return other


def _in_real_time(history: list[Json], config: Config) -> PatientWorld:
    """Applies the history in real time order: a timer that is due at once fires before the events of later seconds."""
    world = PatientWorld(config)
    for event in history:
        world.fire(*AT_ONCE, until=event["created"] - 1).apply(event)
    return world.fire(*AT_ONCE)


def _method_mails(world: PatientWorld) -> set[str]:
    return {key for key, email in world.emails.items() if email.template == "payment-method-detached"}


@settings(max_examples=examples(80), deadline=None, suppress_health_check=SLOW)
@given(payments())
def test_C8_C9_refunds_and_disputes_in_every_order(delivery: Delivery) -> None:
    world = _check(delivery, CONFIG)
    story, row = delivery.story, world.payment()
    assert isinstance(story, PaymentStory)
    refunded = sum(story.refunded.values())
    assert row.refunded_amount == refunded
    is_lost = "lost" in story.disputes.values()
    kept = PaymentStatus.REFUNDED if refunded else PaymentStatus.SUCCEEDED
    assert row.status is (PaymentStatus.LOST if is_lost else kept)
    assert set(row.open_disputes) == {id_ for id_, status in story.disputes.items() if status not in ("won", "lost")}
    assert row.on_hold is bool(row.open_disputes)
    assert row.failure_reason is None


@settings(max_examples=examples(80), deadline=None, suppress_health_check=SLOW)
@given(methods(), st.booleans())
def test_C6_C7_payment_methods_in_every_order(delivery: Delivery, is_default_set: bool) -> None:
    rules = Rules(set_default_payment_method=is_default_set)
    world = _check(delivery, CONFIG.model_copy(update={"rules": rules}))
    story = delivery.story
    assert isinstance(story, MethodStory)
    rows = world.known.payment_methods_of("", "cus_1")
    assert {row.payment_method_id for row in rows if row.detached_at is None} == set(story.attached)
    assert world.customer().default_payment_method in {*story.attached, None}


@settings(max_examples=examples(25), deadline=None, suppress_health_check=SLOW)
@given(payments() | methods())
def test_D1_a_second_delivery_of_everything_changes_nothing(delivery: Delivery) -> None:
    world = PatientWorld().apply(*delivery.history).fire(*AT_ONCE)
    state, mails, calls = world.state(), set(world.emails), set(world.calls)
    world.apply(*delivery.history).fire(*AT_ONCE)
    assert (world.state(), set(world.emails), set(world.calls)) == (state, mails, calls)
