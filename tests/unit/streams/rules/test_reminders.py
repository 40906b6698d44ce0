"""Reminders by timer, behaviours.md B1, B4, C3 and D9: each acts on the current state, or does nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from local.stripe.builder import Json, Price, StripeEvents
from schemas.state import Timer
from schemas.statuses import PaymentStatus, TimerStatus
from schemas.timer import timer_event
from tests.kits.paymentkit import PatientWorld
from tests.kits.rulekit import CONFIG, DAY, MAKERS, NOW, at

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())

TRIAL = 14 * DAY


def begun(make: StripeEvents, type_: str = "created", when: int = NOW, **more: object) -> Json:
    subscription = make.subscription(**{"start": when, **more})  # type: ignore[arg-type]  # the builder's keywords
    return make.event(f"customer.subscription.{type_}", subscription, when)


def on_trial(make: StripeEvents, type_: str = "created", when: int = NOW, end: int = NOW + TRIAL) -> Json:
    return begun(make, type_, when, start=NOW, status="trialing", trial_end=end)


def failed(make: StripeEvents, when: int = NOW, attempts: int = 1) -> Json:
    invoice = make.invoice(created=when, attempts=attempts, next_attempt=when + 3 * DAY)
    return make.event("invoice.payment_failed", invoice, when)


def ended(make: StripeEvents, when: int, id_: str = "sub_1") -> Json:
    subscription = make.subscription(id_, start=NOW, status="canceled", canceled_at=when, ended_at=when)
    return make.event("customer.subscription.deleted", subscription, when)


def statuses(world: PatientWorld, kind: str) -> list[TimerStatus]:
    return [timer.status for timer in world.rows_of_timers() if timer.kind == kind]


def fired(world: PatientWorld, kind: str) -> PatientWorld:
    """Fires the timers of this kind and delivers their events a second time."""
    due: list[Timer] = [timer for timer in world.pending().values() if timer.kind == kind]
    world.fire(kind).apply(*map(timer_event, due))
    assert TimerStatus.PENDING not in statuses(world, kind)
    return world


def test_B1_the_trial_reminder_contains_the_days_left(make: StripeEvents) -> None:
    world = fired(PatientWorld().apply(on_trial(make)), "trial-reminder")
    assert world.data("trial-reminder") == {
        "name": None,
        "plan": "Pro",
        "trial_end": at(NOW + TRIAL).isoformat(),
        "days_left": 7,
        "price": {"amount": 2900, "currency": "eur"},
        "interval": "month",
        "interval_count": 1,
        "quantity": 1,
    }
    assert statuses(world, "trial-reminder") == [TimerStatus.DONE]


def test_B1_a_trial_received_late_is_reminded_at_once(make: StripeEvents) -> None:
    late = NOW + TRIAL - 2 * DAY
    (timer,) = PatientWorld().apply(on_trial(make, when=late)).pending().values()
    assert timer.due_at < at(late)
    world = fired(PatientWorld().apply(on_trial(make, when=late)), "trial-reminder")
    assert world.data("trial-reminder")["days_left"] == 2


@pytest.mark.parametrize("what", ["became paid", "was cancelled", "was moved", "is over"])
def test_B1_no_reminder_for_a_trial_that_changed(make: StripeEvents, what: str) -> None:
    then = NOW + 2 * DAY
    later = {
        "became paid": begun(make, "updated", then, start=NOW, trial_end=then),
        "was cancelled": ended(make, then),
        "was moved": on_trial(make, "updated", then, end=NOW + 2 * TRIAL),
        "is over": on_trial(make, "updated", NOW + TRIAL),
    }[what]
    world = PatientWorld().apply(on_trial(make), later)
    world.fire("trial-reminder", until=NOW + TRIAL)
    assert "trial-reminder" not in world.templates()


def test_B1_a_moved_trial_end_has_its_own_reminder(make: StripeEvents) -> None:
    end = NOW + 2 * TRIAL
    world = PatientWorld().apply(on_trial(make), on_trial(make, "updated", NOW + DAY, end))
    assert fired(world, "trial-reminder").data("trial-reminder")["trial_end"] == at(end).isoformat()


def test_C3_the_reminder_is_sent_if_still_unpaid(make: StripeEvents) -> None:
    world = fired(PatientWorld().apply(begun(make), failed(make, NOW + DAY)), "dunning-reminder")
    assert world.templates() == ["payment-failed", "payment-reminder", "subscription-welcome"]
    assert world.data("payment-reminder") == world.data("payment-failed")


def test_C3_the_reminder_has_the_newest_attempt(make: StripeEvents) -> None:
    tries = [failed(make, NOW + DAY), failed(make, NOW + 2 * DAY, 2)]
    for order in (tries, tries[::-1]):
        world = fired(PatientWorld().apply(*order), "dunning-reminder")
        assert world.data("payment-reminder")["attempt"] == 2


@pytest.mark.parametrize("what", ["paid", "voided", "marked_uncollectible", "deleted", "cancelled", "customer deleted"])
@pytest.mark.parametrize("comes", ["before it fires", "while it is on its way"])
def test_C3_no_reminder_for_an_invoice_that_is_paid_or_closed(make: StripeEvents, what: str, comes: str) -> None:
    """If the timer has fired already, its event sees the state left by earlier events in the log."""
    end: Json = {
        "cancelled": lambda: ended(make, NOW + 2 * DAY),
        "paid": lambda: make.event("invoice.paid", make.invoice(status="paid", created=NOW), NOW + 2 * DAY),
        "customer deleted": lambda: make.event(
            "customer.deleted", {"id": "cus_1", "object": "customer"}, NOW + 2 * DAY
        ),
    }.get(what, lambda: make.event(f"invoice.{what}", make.invoice(status="void", created=NOW), NOW + 2 * DAY))()
    world = PatientWorld().apply(begun(make), failed(make, NOW + DAY))
    (timer,) = (timer for timer in world.pending().values() if timer.kind == "dunning-reminder")
    world.apply(end)
    if comes == "while it is on its way":
        world.apply(timer_event(timer))
    world.fire("dunning-reminder")
    assert "payment-reminder" not in world.templates()
    assert TimerStatus.PENDING not in statuses(world, "dunning-reminder")


@pytest.mark.parametrize("now", [{"status": PaymentStatus.SUCCEEDED}, {"closed_at": at(NOW)}], ids=["paid", "closed"])
def test_C3_the_reminder_checks_the_current_invoice(make: StripeEvents, now: dict[str, Any]) -> None:
    """This holds even if the timer was not cancelled."""
    world = PatientWorld().apply(begun(make), failed(make, NOW + DAY))
    world.known.save(replace(world.payment(), **now))
    assert "payment-reminder" not in fired(world, "dunning-reminder").templates()


def test_B4_win_back_fourteen_days_after(make: StripeEvents) -> None:
    world = PatientWorld().apply(begun(make), ended(make, NOW + DAY))
    (timer,) = (timer for timer in world.pending().values() if timer.kind == "win-back")
    assert timer.due_at == at(NOW + 15 * DAY)
    data = {"name": None, "plan": "Pro", "return_url": CONFIG.mail.return_url}
    assert fired(world, "win-back").data("win-back") == data


def test_B4_the_win_back_names_the_chosen_plan(make: StripeEvents) -> None:
    """The plan chosen at the checkout is used if no plan contains the price."""
    odd = Price("price_odd")
    bought = make.event("checkout.session.completed", make.checkout_session(plan="team", created=NOW), NOW + 1)
    gone = make.subscription(start=NOW, price=odd, status="canceled", canceled_at=NOW + DAY, ended_at=NOW + DAY)
    end = make.event("customer.subscription.deleted", gone, NOW + DAY)
    world = PatientWorld().apply(begun(make, price=odd), bought, end)
    assert fired(world, "win-back").data("win-back")["plan"] == "Team"


@pytest.mark.parametrize("status", ["active", "trialing"])
def test_B4_a_customer_who_came_back_gets_no_win_back(make: StripeEvents, status: str) -> None:
    world = PatientWorld().apply(begun(make), ended(make, NOW + DAY))
    (timer,) = (timer for timer in world.pending().values() if timer.kind == "win-back")
    world.apply(begun(make, when=NOW + 2 * DAY, id_="sub_2", status=status, trial_end=NOW + TRIAL), timer_event(timer))
    assert "win-back" not in fired(world, "win-back").templates()


def test_B4_a_customer_with_another_subscription_gets_no_win_back(make: StripeEvents) -> None:
    world = PatientWorld().apply(begun(make), begun(make, id_="sub_2"), ended(make, NOW + DAY))
    assert "win-back" not in fired(world, "win-back").templates()


@pytest.mark.parametrize("apart", [0, 1, 5])
def test_B4_a_customer_who_ends_two_gets_one_win_back(make: StripeEvents, apart: int) -> None:
    """It is due fourteen days after the last cancellation."""
    world = PatientWorld().apply(
        begun(make), begun(make, id_="sub_2"), ended(make, NOW + DAY), ended(make, NOW + (1 + apart) * DAY, "sub_2")
    )
    assert fired(world, "win-back").templates().count("win-back") == 1
    assert "win-back::sub_2" in world.emails


def test_B4_a_deleted_customer_gets_no_win_back(make: StripeEvents) -> None:
    gone = make.event("customer.deleted", {"id": "cus_1", "object": "customer"}, NOW + 2 * DAY)
    world = PatientWorld().apply(begun(make), ended(make, NOW + DAY), gone)
    assert "win-back" not in fired(world, "win-back").templates()
