"""F3: the customer's application is sent each change of state once, and nothing for an event that changes none."""

from __future__ import annotations

import random
from typing import Any

import pytest

from local.stripe import payments as pay
from local.stripe.builder import PRO, ApiShape, Json, Price, StripeEvents
from schemas.feed_message import AccessFacts, ChangeMessage
from schemas.settings import Config
from schemas.state import Organization, Payment
from schemas.timer import timer_event
from sinks.feed.message import body_of
from tests.kits.feedkit import destination, queued
from tests.kits.rulekit import CONFIG, DAY, MAKERS, NOW, RulesWorld, at

URL = "http://127.0.0.1:1/hook"
MAKE = StripeEvents()


def feed(**destinations: list[str]) -> Config:
    chosen = {name: destination(URL, events=events) for name, events in destinations.items()}
    return CONFIG.model_copy(update={"feed": CONFIG.feed.model_copy(update={"destinations": chosen})})


FEED = feed(app=["*"])


def world() -> RulesWorld:
    return RulesWorld(FEED)


def subscription(type_: str = "created", when: int = NOW, make: StripeEvents = MAKE, **more: Any) -> Json:
    return make.event(f"customer.subscription.{type_}", make.subscription(start=NOW, **more), when)


def failed(when: int, attempts: int = 1, make: StripeEvents = MAKE) -> Json:
    invoice = make.invoice(created=when, attempts=attempts, next_attempt=when + DAY)
    return make.event("invoice.payment_failed", invoice, when)


def paid(when: int) -> Json:
    return MAKE.event("invoice.paid", MAKE.invoice(status="paid", created=NOW, paid_at=when), when)


def types(found: RulesWorld) -> list[str]:
    return [order.type for order in found.notifications.values()]


def last_access(found: RulesWorld) -> dict[str, Any]:
    return dict([order for order in found.notifications.values() if order.type == "access.changed"][-1].data)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())
def test_F3_each_change_of_a_life_is_reported(make: StripeEvents) -> None:
    now = world().apply(subscription(make=make))
    assert sorted(types(now)) == ["access.changed", "subscription.created"]
    assert last_access(now) == {
        "user_id": None,
        "organization_id": Organization.id_of("", "cus_1"),
        "has_access": True,
        "plan": "pro",
        "limits": {"seats": 5},
        "reason": "active",
        "changes_at": None,
        "previous_user_id": None,
    }
    now.notifications.clear()
    now.apply(failed(NOW + 30 * DAY, make=make))
    assert sorted(types(now)) == ["access.changed", "dunning.step", "payment.failed", "subscription.updated"]
    assert (last_access(now)["reason"], last_access(now)["has_access"]) == ("past_due", True)
    step = next(order for order in now.notifications.values() if order.type == "dunning.step")
    assert (step.data["invoice_id"], step.data["step"]) == ("in_1", "payment-failed")
    now.notifications.clear()
    ended = NOW + 31 * DAY
    now.apply(subscription("deleted", ended, make, status="canceled", ended_at=ended))
    assert sorted(types(now)) == ["access.changed", "subscription.ended"]
    assert (last_access(now)["has_access"], last_access(now)["plan"]) == (False, "free")


def test_F3_an_event_that_changes_nothing_is_not_reported() -> None:
    now = world().apply(subscription())
    now.notifications.clear()
    now.apply(subscription("updated", NOW + 60))
    assert types(now) == []
    now.apply(replace_id(subscription("updated", NOW - DAY, status="past_due")))
    assert types(now) == [], "an older event changed what is reported"


def replace_id(event: Json) -> Json:
    return event | {"id": f"{event['id']}_again"}


def test_F3_back_and_forth_is_reported_each_time() -> None:
    """A → B → A: the last state is not swallowed as one that was reported before."""
    now = world().apply(subscription())
    for number, price in enumerate(("price_team", "price_pro", "price_team", "price_pro")):
        now.apply(subscription("updated", NOW + number + 1, price=Price(price, 2900, "eur")))
    plans = [order.data["plan"] for order in now.notifications.values() if order.type == "access.changed"]
    assert plans == ["pro", "team", "pro", "team", "pro"]


@pytest.mark.parametrize("seed", range(20))
def test_F3_in_any_order_the_last_message_has_the_state(seed: int) -> None:
    """Each event twice and in any order: a receiver that keeps the newest message has what the tables have."""
    events = [
        subscription(),
        failed(NOW + 30 * DAY),
        failed(NOW + 31 * DAY, 2),
        paid(NOW + 32 * DAY),
        subscription("updated", NOW + 33 * DAY, cancel_at_period_end=True),
        subscription("deleted", NOW + 60 * DAY, status="canceled", ended_at=NOW + 60 * DAY),
    ]
    shuffled = [*events, *events]
    random.Random(seed).shuffle(shuffled)  # an order of events
    now, seen = world(), set()
    for event in shuffled:
        if event["id"] not in seen:  # the ledger drops the second delivery
            now.apply(event)
        seen.add(event["id"])
    row, payment = now.organization(), now.payment()
    last = last_access(now)
    assert (last["has_access"], last["plan"], last["reason"]) == (row.has_access, row.plan, row.access_reason)
    of_payment = [order for order in now.notifications.values() if "payment_id" in order.data]
    assert of_payment[-1].data["status"] == payment.status
    of_subscription = [order for order in now.notifications.values() if "subscription_id" in order.data]
    assert any(order.type == "subscription.ended" for order in of_subscription)


def test_F3_a_step_of_dunning_is_reported_once() -> None:
    now = world().apply(subscription(), failed(NOW + 30 * DAY), failed(NOW + 31 * DAY, 2), failed(NOW + 32 * DAY, 3))
    steps = [order.data["step"] for order in now.notifications.values() if order.type == "dunning.step"]
    assert steps == ["payment-failed", "payment-urgent"]


def test_F3_a_link_to_a_user_is_a_change_of_access() -> None:
    session = MAKE.checkout_session(user="user_7", created=NOW + 1)
    now = world().apply(subscription(), MAKE.event("checkout.session.completed", session, NOW + 1))
    assert last_access(now)["user_id"] == "user_7"
    assert last_access(now)["previous_user_id"] is None


def test_F3_the_end_of_the_grace_time_is_reported_though_no_event_arrives() -> None:
    now = world().apply(subscription(), failed(NOW + 30 * DAY))
    until = now.organization().access_until
    assert until == at(NOW + 44 * DAY)
    (timer,) = (timer for timer in now.pending().values() if timer.kind == "access-ends")
    assert timer.due_at == until
    now.notifications.clear()
    now.apply(timer_event(timer))
    assert types(now) == ["access.changed"]
    assert (last_access(now)["has_access"], last_access(now)["reason"]) == (False, "grace_ended")


def test_F3_the_end_of_each_grace_time_is_reported() -> None:
    """Two subscriptions are past due: first the larger plan ends, then all access."""
    now = world()
    for day, id_, price in ((0, "sub_1", Price("price_team", 9900)), (4, "sub_2", PRO)):
        for type_, status in (("created", "active"), ("updated", "past_due")):
            made = MAKE.subscription(id_, start=NOW, status=status, price=price)
            previous = {"status": "active"} if type_ == "updated" else None
            now.apply(MAKE.event(f"customer.subscription.{type_}", made, NOW + day * DAY, previous=previous))
    timers = [timer for timer in now.pending().values() if timer.kind == "access-ends"]
    reported = []
    for timer in sorted(timers, key=lambda timer: timer.due_at):
        now.notifications.clear()
        now.apply(timer_event(timer))
        reported += [(order.data["plan"], order.data["has_access"]) for order in now.notifications.values()]
    assert reported == [("pro", True), ("free", False)]


def test_F3_a_grace_time_that_ended_by_payment_is_not_reported() -> None:
    now = world().apply(subscription(), failed(NOW + 30 * DAY))
    (timer,) = (timer for timer in now.pending().values() if timer.kind == "access-ends")
    now.apply(paid(NOW + 31 * DAY))
    now.notifications.clear()
    now.apply(timer_event(timer))
    assert types(now) == []


def test_F3_each_destination_gets_what_it_asked_for_under_one_id() -> None:
    now = RulesWorld(feed(app=["access.*"], crm=["*"])).apply(subscription())
    got = {(order.destination, order.type): order.message_id for order in now.notifications.values()}
    assert set(got) == {("app", "access.changed"), ("crm", "access.changed"), ("crm", "subscription.created")}
    assert got["app", "access.changed"] == got["crm", "access.changed"]


def test_F3_without_a_feed_there_are_no_notifications_and_no_timers() -> None:
    now = RulesWorld().apply(subscription(), failed(NOW + 30 * DAY))
    assert now.notifications == {}
    assert "access-ends" not in {timer.kind for timer in now.pending().values()}


def test_F3_each_message_matches_the_contract_and_has_no_personal_data() -> None:
    now = world().apply(subscription(), failed(NOW + 30 * DAY), paid(NOW + 31 * DAY))
    for order in now.notifications.values():
        row = queued(type=order.type, data=order.data, occurred_at=order.occurred_at)
        message = ChangeMessage.model_validate_json(body_of(row))
        assert message.data.version == 7
        extra = [*(message.model_extra or {}), *(message.data.model_extra or {})]
        assert extra == [], "the contract does not name these"
        assert b"jane" not in body_of(row).lower()
    assert AccessFacts.model_fields.keys() <= last_access(now).keys()


def test_F3_what_was_reported_before_two_payments_are_joined_is_not_reported_again() -> None:
    """A purchase is paid and refunded; then Stripe links its intent to an invoice that had failed."""
    make = StripeEvents(ApiShape.NEW)
    session = make.checkout_session(mode="payment", payment_intent="pi_1", payment_status="paid")
    charge = pay.charge(make, "ch_1", invoice=None, payment_intent="pi_1", refunded=400)
    found = world().apply(
        failed(NOW, make=make),
        make.event("checkout.session.completed", session, NOW + 1),
        make.event("charge.refunded", charge, NOW + 2),
    )
    assert types(found).count("payment.refunded") == 1
    found.notifications.clear()
    link = pay.invoice_payment(make, "inpay_1", payment_intent="pi_1")
    found.apply(make.event("invoice_payment.paid", link, NOW + 3))
    assert len(found.rows(Payment)) == 1
    assert "payment.refunded" not in types(found)
