"""B6: which customers are erased 30 days after they left, which are not, and the effect of late events."""

from __future__ import annotations

from datetime import timedelta

import pytest

from local.stripe.builder import Json, StripeEvents
from schemas.effects import Effect, Erase, FinishTimer, NoteStale, OrderExport, StartTimer
from schemas.erasure import erasure_event
from schemas.state import Customer, Organization, Timer, derived_id
from schemas.statuses import TimerStatus
from schemas.timer import timer_event
from tests.kits.rulekit import DAY, MAKERS, NOW, RulesWorld, at, decide_with, read, saved_rows

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())

END = NOW + 10 * DAY


def joined(make: StripeEvents) -> Json:
    return make.event("customer.created", make.customer(), NOW)


def subscribed(make: StripeEvents, when: int = NOW, id_: str = "sub_1", **more: object) -> Json:
    subscription = make.subscription(id_, start=when, **more)  # type: ignore[arg-type]  # the builder's keywords
    return make.event("customer.subscription.created", subscription, when + 1)


def cancelled(make: StripeEvents, when: int = END, id_: str = "sub_1") -> Json:
    subscription = make.subscription(id_, start=NOW, status="canceled", ended_at=when)
    return make.event("customer.subscription.deleted", subscription, when)


def erase_timer(world: RulesWorld, subject: str = "sub_1") -> Timer:
    timer = world.known.timer(f"erase::{subject}")
    assert timer is not None
    return timer


def fire(world: RulesWorld, subject: str = "sub_1") -> list[Effect]:
    """The effects of the customer's erase timer on the rows known now."""
    event, rule = read(timer_event(erase_timer(world, subject)))
    return decide_with(rule, event, world.known)


def test_B6_a_cancellation_orders_an_export_with_the_id_in_its_mail(make: StripeEvents) -> None:
    world = RulesWorld().apply(joined(make), subscribed(make))
    event, rule = read(cancelled(make))
    orders = [effect for effect in decide_with(rule, event, world.known) if isinstance(effect, OrderExport)]
    key = derived_id("exp", "", "sub_1")
    assert orders == [OrderExport(key=key, account="", customer_id="cus_1", keep_until=at(END + 30 * DAY))]
    assert world.apply(cancelled(make)).data("subscription-canceled")["export_id"] == key


def test_B6_a_deleted_customer_is_exported_and_erased_too(make: StripeEvents) -> None:
    world = RulesWorld().apply(joined(make))
    event, rule = read(make.event("customer.deleted", make.customer(), END))
    effects = decide_with(rule, event, world.known)
    assert [effect.customer_id for effect in effects if isinstance(effect, OrderExport)] == ["cus_1"]
    assert [effect.due_at for effect in effects if isinstance(effect, StartTimer)] == [at(END + 30 * DAY)]


def test_B6_after_thirty_days_no_personal_data_is_left(make: StripeEvents) -> None:
    world = RulesWorld().apply(joined(make), subscribed(make), cancelled(make))
    effects = fire(world)
    (saved,) = saved_rows(effects, Customer)
    (organization,) = saved_rows(effects, Organization)
    assert (saved.email, saved.name, saved.locale, saved.erased_at) == (None, None, None, at(END + 30 * DAY))
    assert (organization.name, organization.billing_email) == ("Organization sub_1", None)
    assert FinishTimer("erase::sub_1") in effects
    assert effects[-1] == Erase(account="", customer_id="cus_1", asked_at=at(END))


def test_B6_a_request_erases_a_running_customer_only_if_confirmed(make: StripeEvents) -> None:
    world = RulesWorld().apply(joined(make), subscribed(make))

    def requested(*, even_if_running: bool) -> list[Effect]:
        request = erasure_event(
            "", "cus_1", by="sam", reason="r", even_if_running=even_if_running, at=at(NOW + 9), livemode=False
        )
        event, rule = read(request)
        return decide_with(rule, event, world.known)

    assert requested(even_if_running=False) == [NoteStale("not erased: sub_1 is running")]
    effects = requested(even_if_running=True)
    (saved,) = saved_rows(effects, Customer)
    assert (saved.email, saved.name, saved.erased_at) == (None, None, at(NOW + 9))
    assert effects[-1] == Erase(account="", customer_id="cus_1", asked_at=at(NOW + 9), by="sam", reason="r")
    world.apply(cancelled(make))
    assert isinstance(requested(even_if_running=False)[-1], Erase)


def test_B6_a_new_subscription_cancels_the_erasure(make: StripeEvents) -> None:
    world = RulesWorld().apply(joined(make), subscribed(make), cancelled(make), subscribed(make, END + DAY, "sub_2"))
    assert erase_timer(world).status is TimerStatus.CANCELLED
    assert fire(world) == []


def test_B6_a_customer_with_another_subscription_is_not_erased(make: StripeEvents) -> None:
    world = RulesWorld().apply(joined(make), subscribed(make), subscribed(make, NOW + 5, "sub_2"), cancelled(make))
    assert erase_timer(world).status is TimerStatus.PENDING
    assert fire(world) == [FinishTimer("erase::sub_1")]


def test_B6_the_last_subscription_to_end_decides_when(make: StripeEvents) -> None:
    """The mail for the second cancellation contains a later date."""
    world = RulesWorld().apply(joined(make), subscribed(make), subscribed(make, NOW + 5, "sub_2"))
    world.apply(cancelled(make), cancelled(make, END + 5 * DAY, "sub_2"))
    assert fire(world) == [FinishTimer("erase::sub_1")]
    assert isinstance(fire(world, "sub_2")[-1], Erase)


def test_B6_a_pending_first_payment_postpones_the_erasure(make: StripeEvents) -> None:
    world = RulesWorld().apply(joined(make), subscribed(make), cancelled(make))
    world.apply(subscribed(make, END + 29 * DAY, "sub_2", status="incomplete"))
    (order,) = fire(world)
    assert isinstance(order, StartTimer)
    assert (order.key, order.due_at) == ("erase::sub_1", at(END + 30 * DAY) + timedelta(days=1))


def test_B6_a_late_event_restores_nothing_and_a_new_one_is_applied(make: StripeEvents) -> None:
    world = RulesWorld().apply(joined(make), subscribed(make), cancelled(make))
    world.apply(timer_event(erase_timer(world)))
    assert world.customer().email is None
    old = make.event("customer.updated", make.customer(name="Jane"), END + DAY, previous={"name": "Jane Doe"})
    world.apply(joined(make), old)
    assert (world.customer().email, world.customer().name) == (None, None)
    new = make.event(
        "customer.updated", make.customer(email="new@example.com"), END + 40 * DAY, previous={"email": None}
    )
    assert world.apply(new).customer().email is None, "until the customer returns"
