"""behaviours.md B2, C14 and C15: one payment is one row, whatever its objects are and in whatever order they come."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from local.stripe import payments as pay
from local.stripe.builder import ApiShape, Json, StripeEvents
from schemas.state import Payment, PaymentLink
from tests.kits.paymentkit import AT_ONCE, PatientWorld
from tests.kits.rulekit import DAY, MAKERS, NOW, at

NEW = StripeEvents(ApiShape.NEW)


def in_every_order(events: list[Json]) -> PatientWorld:
    """Applies the events in each order, checks that the rows and the number of mails are equal, and returns one."""
    worlds = [PatientWorld().apply(*order).fire(*AT_ONCE) for order in itertools.permutations(events)]
    first = worlds[0]
    for world in worlds:
        assert world.waiting == []
        assert world.state() == first.state()
        assert len(world.emails) == len(first.emails)
    assert {link.payment_id for link in first.rows(PaymentLink)} == {row.payment_id for row in first.rows(Payment)}
    return first


def session(kind: str, when: int, status: str, **more: Any) -> Json:
    obj = NEW.checkout_session(mode="payment", payment_intent="pi_1", payment_status=status, **more)
    return NEW.event(f"checkout.session.{kind}", obj, when)


def invoice(make: StripeEvents, type_: str, when: int, **more: Any) -> Json:
    return make.event(f"invoice.{type_}", make.invoice(created=NOW, subscription=None, reason="manual", **more), when)


def note(when: int, kind: str = "created", amount: int = 900, **more: Any) -> Json:
    obj = {
        "id": "cn_1",
        "object": "credit_note",
        "invoice": "in_1",
        "customer": "cus_1",
        "pre_payment_amount": amount,
        "amount": amount,
        "currency": "eur",
        "created": NOW + DAY,
        "status": "issued",
        "type": "pre_payment",
    }
    return NEW.event(f"credit_note.{kind}", obj | more, when)


def test_B2_C14_a_delayed_purchase_with_an_invoice_is_one_payment_in_every_order() -> None:
    world = in_every_order(
        [
            session("completed", NOW, "unpaid"),
            invoice(NEW, "paid", NOW + DAY, status="paid"),
            session("async_payment_succeeded", NOW + DAY, "paid", invoice="in_1"),
            NEW.event("charge.refunded", pay.charge(NEW, "ch_1", refunded=400), NOW + 2 * DAY),
        ]
    )
    (row,) = world.rows(Payment)
    assert (row.status, row.amount, row.refunded_amount) == ("refunded", 2900, 400)
    assert (row.invoice_id, row.checkout_session_id, row.payment_intent_id) == ("in_1", "cs_test_1", "pi_1")
    assert row.fulfilled_at == at(NOW + DAY)
    assert world.templates() == ["payment-receipt"]


def test_C14_parts_of_an_invoice_are_one_payment_in_every_order() -> None:
    def part(number: int, amount: int) -> Json:
        obj = pay.invoice_payment(NEW, f"inpay_{number}", payment_intent=f"pi_{number}", amount=amount)
        return NEW.event("invoice_payment.paid", obj, NOW + number)

    back = pay.charge(NEW, "ch_2", invoice=None, payment_intent="pi_2", amount=900, refunded=300)
    lost = pay.dispute(NEW, charge="ch_1", payment_intent="pi_1", status="lost", created=NOW + 5)
    world = in_every_order(
        [
            part(1, 2000),
            part(2, 900),
            invoice(NEW, "paid", NOW + 3, status="paid"),
            NEW.event("charge.refunded", back, NOW + 4),
            NEW.event("charge.dispute.created", lost, NOW + 5),
        ]
    )
    (row,) = world.rows(Payment)
    assert (row.status, row.refunded_amount, row.disputes) == ("lost", 300, {"dp_1": "lost"})
    assert world.dispute().payment_id == row.payment_id
    assert set(world.known.payment_ids("", "in_1")) == {"in_1", "pi_1", "pi_2", "ch_1", "ch_2"}


def test_C14_an_open_invoice_stays_open_when_its_paid_part_goes_back() -> None:
    paid_part = pay.invoice_payment(NEW, "inpay_1", payment_intent="pi_1", amount=1000)
    back = pay.charge(NEW, "ch_1", invoice=None, payment_intent="pi_1", amount=1000, refunded=1000)
    events = [
        invoice(NEW, "payment_failed", NOW, amount_remaining=1900),
        NEW.event("invoice_payment.paid", paid_part, NOW + 1),
        NEW.event("charge.refunded", back, NOW + 2),
    ]
    (row,) = in_every_order(events).rows(Payment)
    assert (row.status, row.amount_remaining, row.refunded_amount) == ("failed", 1900, 1000)
    (row,) = PatientWorld().apply(*events, invoice(NEW, "paid", NOW + 3, status="paid")).rows(Payment)
    assert (row.status, row.amount_remaining, row.refunded_amount) == ("refunded", 0, 1000)


def test_C15_a_part_of_a_voided_invoice_does_not_pay_it() -> None:
    """It was paid in part and voided; the part is disputed, and later lost."""
    part = pay.invoice_payment(NEW, "inpay_1", payment_intent="pi_1", amount=1000)
    events = [
        invoice(NEW, "updated", NOW, amount_remaining=1900),
        NEW.event("invoice_payment.paid", part, NOW + 1),
        invoice(NEW, "voided", NOW + 2, status="void"),
        NEW.event("charge.dispute.created", pay.dispute(NEW, created=NOW + 3), NOW + 3),
    ]
    (row,) = in_every_order(events).rows(Payment)
    assert (row.status, row.on_hold) == ("closed", True)


def test_C14_a_loose_payment_joins_the_purchase_that_comes_after_the_limit() -> None:
    refund = NEW.event("charge.refunded", pay.charge(NEW, "ch_1", invoice=None, refunded=400), NOW + DAY)
    dispute = NEW.event("charge.dispute.created", pay.dispute(NEW, created=NOW), NOW + DAY)
    world = PatientWorld().apply(refund, dispute).give_up()
    loose = world.payment("ch_1")
    world.apply(session("completed", NOW, "paid")).fire(*AT_ONCE)
    (row,) = world.rows(Payment)
    assert row.payment_id != loose.payment_id
    assert world.dispute().payment_id == row.payment_id
    assert (row.checkout_session_id, row.refunded_amount, row.on_hold) == ("cs_test_1", 400, True)


def test_C14_two_invoices_stay_two_payments() -> None:
    events = [
        invoice(NEW, "paid", NOW, status="paid", id_="in_1"),
        invoice(NEW, "paid", NOW, status="paid", id_="in_2"),
    ]
    links = [
        NEW.event("invoice_payment.paid", pay.invoice_payment(NEW, f"inpay_{id_}", invoice=id_), NOW)
        for id_ in ("in_1", "in_2")
    ]
    world = PatientWorld().apply(*events, *links)
    assert world.waiting == []
    assert {row.invoice_id for row in world.rows(Payment)} == {"in_1", "in_2"}


@pytest.mark.parametrize("end", ["succeeded", "canceled"])
def test_B2_a_purchase_with_manual_capture_in_every_order(end: str) -> None:
    intent = pay.payment_intent(NEW, invoice=None, charge="ch_1") | {
        "capture_method": "manual",
        "amount_received": 2900 if end == "succeeded" else 0,
    }
    world = in_every_order(
        [
            NEW.event("charge.succeeded", pay.charge(NEW, "ch_1", invoice=None), NOW),
            session("completed", NOW + 1, "unpaid"),
            NEW.event(f"payment_intent.{end}", intent, NOW + DAY),
        ]
    )
    (row,) = world.rows(Payment)
    if end == "canceled":
        assert (row.status, row.fulfilled_at, world.templates()) == ("closed", None, [])
    else:
        assert (row.status, row.amount, row.fulfilled_at) == ("succeeded", 2900, at(NOW + DAY))
        assert world.templates() == ["payment-receipt"]


def test_B2_a_purchase_that_stayed_pending_is_paid_once_its_charge_is_fetched() -> None:
    """An event of Stripe only links the charge. One that `billing reconcile --object ch_…` makes shows all of it."""

    def charged(id_: str, **more: Any) -> Json:
        charge = pay.charge(NEW, "ch_1", invoice=None, created=NOW + 2) | {"status": "succeeded"} | more
        return NEW.event("charge.succeeded", charge, NOW + DAY, id_=id_)

    world = PatientWorld().apply(session("completed", NOW + 1, "unpaid"))
    for event in (charged("evt_1"), charged("ref_1", captured=False), charged("ref_2", status="pending")):
        assert world.apply(event).payment("cs_test_1").status == "pending"
    row = world.apply(charged("ref_3", amount_captured=1900)).payment("cs_test_1")
    assert (row.status, row.amount, row.paid_at, row.fulfilled_at) == ("succeeded", 1900, at(NOW + 2), at(NOW + 2))
    assert world.templates() == ["payment-receipt"]
    row = world.apply(charged("ref_4", amount_captured=2000)).payment("cs_test_1")
    assert (row.amount, row.paid_at) == (2000, at(NOW + 2))
    assert world.templates() == ["payment-receipt"]


def test_B2_a_refund_that_came_before_the_checkout_does_not_hide_that_a_purchase_is_paid() -> None:
    """An import applies the refund at once, without its payment; the checkout and the intent are events of the past."""
    intent = pay.payment_intent(NEW, invoice=None, charge="ch_1") | {
        "capture_method": "manual",
        "amount_received": 2900,
    }
    refunded = NEW.event("charge.refunded", pay.charge(NEW, "ch_1", invoice=None, refunded=400), NOW + 2 * DAY)
    events = [session("completed", NOW, "unpaid"), NEW.event("payment_intent.succeeded", intent, NOW + DAY)]
    found = []
    for order in itertools.permutations([refunded, *events]):
        world = PatientWorld()
        for event in order:
            world.apply(event)
            if event is refunded:
                others = [one for one in world.waiting if one is not refunded]
                world.waiting = [one for one in world.waiting if one is refunded]
                world.give_up().waiting += others
        assert world.waiting == []
        (row,) = world.rows(Payment)
        found.append((row.status, row.amount, row.refunded_amount, row.fulfilled_at))
    assert set(found) == {("refunded", 2900, 400, at(NOW + DAY))}


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.shape.name.lower())
def test_C15_a_deleted_draft_makes_no_payment_and_a_voided_invoice_is_closed(make: StripeEvents) -> None:
    world = PatientWorld().apply(invoice(make, "deleted", NOW, status="draft"))
    assert world.rows(Payment) == []
    assert PatientWorld().apply(invoice(make, "voided", NOW, status="void")).payment().status == "closed"


def test_C15_a_credit_note_reduces_what_is_owed_in_every_order() -> None:
    failed = invoice(NEW, "payment_failed", NOW)
    row = in_every_order([failed, note(NOW + DAY)]).payment()
    assert (row.amount, row.amount_remaining) == (2000, 2000)
    voided = note(NOW + 2 * DAY, "voided", status="void", voided_at=NOW + 2 * DAY)
    assert in_every_order([failed, note(NOW + DAY), voided]).payment().amount_remaining == 2900


def test_C15_a_later_state_of_the_invoice_contains_the_credit_note() -> None:
    obj = NEW.invoice(created=NOW, subscription=None) | {"status": "open", "amount_due": 2000, "amount_remaining": 2000}
    updated = NEW.event("invoice.updated", obj, NOW + DAY, previous={"amount_due": 2900, "amount_remaining": 2900})
    world = in_every_order([invoice(NEW, "payment_failed", NOW), note(NOW + DAY), updated])
    assert (world.payment().status, world.payment().amount_remaining) == ("failed", 2000)


def test_C15_the_reminder_asks_for_what_is_left() -> None:
    world = PatientWorld().apply(invoice(NEW, "payment_failed", NOW), note(NOW + DAY)).fire()
    assert world.data("payment-reminder")["amount"] == {"amount": 2000, "currency": "eur"}
    paid_off = PatientWorld().apply(invoice(NEW, "payment_failed", NOW), note(NOW + DAY, amount=2900)).fire()
    assert "payment-reminder" not in paid_off.templates()
