"""Stream `payments`, cards: behaviours.md C6 and C7."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from local.stripe.builder import Json, StripeEvents
from local.stripe.payments import card, payment_method
from schemas.effects import CallStripe
from schemas.settings import Rules
from schemas.state import PaymentMethod
from schemas.statuses import TimerStatus
from tests.kits.paymentkit import AT_ONCE, PatientWorld
from tests.kits.rulekit import CONFIG, DAY, MAKERS, NOW, at, decide, saved_rows

pytestmark = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())

EXPIRY = (2027, 4)  # NOW is 2027-01-15, so both steps are still to come
FIRST, SECOND = datetime(2027, 4, 1, tzinfo=UTC), datetime(2027, 4, 24, tzinfo=UTC)
OFF = CONFIG.model_copy(update={"rules": Rules(set_default_payment_method=False)})


def attached(make: StripeEvents, id_: str = "pm_1", when: int = NOW, expiry: tuple[int, int] = EXPIRY) -> Json:
    obj = payment_method(make, id_, expiry=expiry, created=when)
    return make.event("payment_method.attached", obj, when, id_=f"evt_{id_}")


def updated(make: StripeEvents, when: int, expiry: tuple[int, int], id_: str = "pm_1") -> Json:
    obj = payment_method(make, id_, expiry=expiry, created=NOW)
    return make.event("payment_method.automatically_updated", obj, when, previous={"card": {"exp_year": 2027}})


def detached(make: StripeEvents, when: int, id_: str = "pm_1") -> Json:
    obj = payment_method(make, id_, expiry=EXPIRY, customer=None, created=NOW)
    return make.event("payment_method.detached", obj, when, previous={"customer": "cus_1"})


def chosen(make: StripeEvents, when: int, id_: str | None) -> Json:
    customer = make.customer(invoice_settings={"default_payment_method": id_})
    return make.event("customer.updated", customer, when, previous={"invoice_settings": {}})


def test_C7_an_attached_card_becomes_the_default_here_and_at_stripe(make: StripeEvents) -> None:
    world = PatientWorld().apply(attached(make))
    assert world.customer().default_payment_method == "pm_1"
    assert world.calls == {
        "evt_pm_1": CallStripe(
            key="evt_pm_1",
            method="POST",
            path="/v1/customers/cus_1",
            account="",
            customer_id="cus_1",
            params={"invoice_settings[default_payment_method]": "pm_1"},
            purpose="set the default payment method",
        )
    }
    row = world.payment_method()
    assert (row.customer_id, row.type, row.brand, row.last4) == ("cus_1", "card", "visa", "4242")
    assert (row.exp_year, row.exp_month, row.detached_at) == (2027, 4, None)


def test_C7_a_setting_switches_the_default_off(make: StripeEvents) -> None:
    world = PatientWorld(OFF).apply(attached(make))
    assert world.calls == {}
    assert world.customer().default_payment_method is None
    assert world.payment_method().customer_id == "cus_1"


def test_C7_a_late_attachment_does_not_undo_a_later_choice(make: StripeEvents) -> None:
    world = PatientWorld().apply(chosen(make, NOW + 9, "pm_2"), attached(make))
    assert world.customer().default_payment_method == "pm_2"
    assert world.calls == {}


def test_C7_attaching_leaves_name_and_address_to_older_events(make: StripeEvents) -> None:
    moved = make.event("customer.updated", make.customer(email="new@example.com"), NOW - 9, previous={"email": "x"})
    world = PatientWorld().apply(attached(make), moved)
    assert (world.customer().email, world.customer().default_payment_method) == ("new@example.com", "pm_1")


def test_C7_detaching_the_default_asks_for_a_new_card(make: StripeEvents) -> None:
    world = PatientWorld().apply(attached(make), detached(make, NOW + DAY))
    assert world.customer().default_payment_method is None
    assert world.payment_method().detached_at == at(NOW + DAY)
    assert world.payment_method().customer_id == "cus_1"
    (timer,) = world.pending().values()
    assert (timer.kind, timer.due_at) == (
        "method-detached",
        at(NOW + DAY),
    )  # this timer is due at once; the card's expiry timers are cancelled
    world.fire()
    assert world.templates() == ["payment-method-detached"]
    assert world.data("payment-method-detached")["last4"] == "4242"


def test_C7_detaching_another_card_asks_for_nothing(make: StripeEvents) -> None:
    world = (
        PatientWorld().apply(attached(make), attached(make, "pm_2", NOW + 9), detached(make, NOW + DAY)).fire(*AT_ONCE)
    )
    assert world.customer().default_payment_method == "pm_2"
    assert world.templates() == []


def test_C7_a_replacement_in_the_same_second_asks_for_nothing(make: StripeEvents) -> None:
    world = PatientWorld().apply(attached(make), detached(make, NOW + DAY), attached(make, "pm_2", NOW + DAY))
    assert world.fire(*AT_ONCE).templates() == []


def test_C7_a_detached_card_stays_detached(make: StripeEvents) -> None:
    world = PatientWorld().apply(detached(make, NOW + DAY), attached(make), updated(make, NOW + 2 * DAY, (2030, 1)))
    assert world.payment_method().detached_at == at(NOW + DAY)
    assert world.customer().default_payment_method is None
    assert world.calls == {}
    assert len(world.stale) == 2


def test_C7_two_updates_in_one_second_refetch_from_stripe(make: StripeEvents) -> None:
    world = PatientWorld().apply(updated(make, NOW, (2028, 1)), updated(make, NOW, (2029, 1)))
    assert [(call.method, call.path) for call in world.calls.values()] == [("GET", "/v1/payment_methods/pm_1")]


def test_C6_two_steps_before_the_end_of_the_month(make: StripeEvents) -> None:
    world = PatientWorld().apply(attached(make))
    assert sorted(timer.due_at for timer in world.pending().values()) == [FIRST, SECOND]
    world.fire(until=int(FIRST.timestamp()))
    assert world.templates() == ["card-expiring"]
    assert world.data("card-expiring") == {
        "name": None,
        "brand": "visa",
        "last4": "4242",
        "exp_month": 4,
        "exp_year": 2027,
        "update_url": CONFIG.mail.update_payment_url,
        "days_left": 30,
    }
    world.fire()
    assert sorted(email.data["days_left"] for email in world.emails.values()) == [7, 30]
    assert world.pending() == {}


def test_C6_a_card_that_ends_in_december(make: StripeEvents) -> None:
    world = PatientWorld().apply(attached(make, expiry=(2027, 12)))
    assert max(timer.due_at for timer in world.pending().values()) == datetime(2027, 12, 25, tzinfo=UTC)


def test_C6_a_new_expiry_is_announced_and_the_former_is_not(make: StripeEvents) -> None:
    world = PatientWorld().apply(attached(make), updated(make, NOW + DAY, (2029, 4))).fire()
    assert [email.data["exp_year"] for email in world.emails.values()] == [2029, 2029]


def test_C6_an_expiry_that_a_card_has_again_is_announced(make: StripeEvents) -> None:
    """Also if the second of two events in one second, which Stripe settles, had another expiry."""
    world = PatientWorld().apply(attached(make), updated(make, NOW + DAY, (2029, 4)))
    world.apply(updated(make, NOW + 2 * DAY, (2027, 4))).fire()
    assert [email.data["exp_year"] for email in world.emails.values()] == [2027, 2027]


def test_C6_another_default_stops_the_second_step(make: StripeEvents) -> None:
    world = PatientWorld().apply(attached(make)).fire(until=int(FIRST.timestamp()))
    world.apply(attached(make, "pm_2", int(FIRST.timestamp()) + DAY, (2031, 1))).fire(until=int(SECOND.timestamp()))
    assert [email.data["days_left"] for email in world.emails.values()] == [30]


def test_C6_a_deleted_customer_gets_no_mail(make: StripeEvents) -> None:
    gone = make.event("customer.deleted", {"id": "cus_1", "object": "customer", "deleted": True}, NOW + DAY)
    assert PatientWorld().apply(attached(make), gone).fire("card-expiring").templates() == []


def test_C6_without_a_known_default_only_a_single_card_is_announced(make: StripeEvents) -> None:
    alone = PatientWorld(OFF).apply(attached(make)).fire()
    two = PatientWorld(OFF).apply(attached(make), attached(make, "pm_2")).fire()
    assert (len(alone.emails), len(two.emails)) == (2, 0)


def test_C6_a_card_added_in_its_last_week_is_announced_once(make: StripeEvents) -> None:
    late = int(datetime(2027, 4, 28, tzinfo=UTC).timestamp())
    world = PatientWorld().apply(attached(make, when=late)).fire()
    assert [email.data["days_left"] for email in world.emails.values()] == [3]


def test_C6_a_card_that_has_expired_is_not_announced(make: StripeEvents) -> None:
    assert PatientWorld().apply(updated(make, NOW, (2026, 3))).fire().templates() == []


def test_C6_a_source_is_announced_at_once_and_again(make: StripeEvents) -> None:
    expiring = make.event("customer.source.expiring", card(make, expiry=EXPIRY), int(FIRST.timestamp()) + DAY)
    world = PatientWorld().apply(expiring)
    assert [email.data["days_left"] for email in world.emails.values()] == [29]
    world.apply(expiring).fire()
    assert sorted(email.data["days_left"] for email in world.emails.values()) == [7, 29]


def test_C6_a_source_that_is_renewed_or_deleted_is_not_announced_again(make: StripeEvents) -> None:
    when = int(FIRST.timestamp()) + DAY
    expiring = make.event("customer.source.expiring", card(make, expiry=EXPIRY), when)
    renewed = make.event(
        "customer.source.updated", card(make, expiry=(2031, 4)), when + DAY, previous={"exp_year": 2027}
    )
    deleted = make.event("customer.source.deleted", card(make, expiry=EXPIRY), when + DAY)
    assert len(PatientWorld().apply(expiring, renewed).fire(until=when + 30 * DAY).emails) == 1
    world = PatientWorld().apply(expiring, deleted).fire()
    assert world.templates() == ["card-expiring"]
    assert {timer.status for timer in world.rows_of_timers() if timer.kind == "card-expiring"} == {
        TimerStatus.CANCELLED
    }


def test_C6_a_source_other_than_a_card_is_only_recorded(make: StripeEvents) -> None:
    source = {"id": "src_1", "object": "source", "type": "ach_credit_transfer", "ach_credit_transfer": {}}
    assert decide(make.event("customer.source.expiring", source, NOW)) == []


def test_C12_one_customer_id_in_two_accounts_is_two_customers(make: StripeEvents) -> None:
    there = StripeEvents(make.shape, account="acct_9")
    world = (
        PatientWorld().apply(attached(make), attached(there, "pm_2"), detached(there, NOW + DAY, "pm_2")).fire(*AT_ONCE)
    )
    assert world.customer().default_payment_method == "pm_1"
    assert world.customer(account="acct_9").default_payment_method is None
    assert [email.account for email in world.emails.values()] == ["acct_9"]
    assert [call.account for call in world.calls.values()] == ["", "acct_9"]
    assert world.known.payment_method("", "pm_2") is None


def test_an_expanded_customer_and_a_method_other_than_a_card(make: StripeEvents) -> None:
    obj = payment_method(make, type="sepa_debit", sepa_debit={"last4": "3000"}) | {"customer": {"id": "cus_1"}}
    (saved,) = saved_rows(decide(make.event("payment_method.attached", obj, NOW)), PaymentMethod)
    assert (saved.type, saved.last4, saved.exp_year) == ("sepa_debit", "3000", None)
