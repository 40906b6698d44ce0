"""Figures for recoveries, payments and refunds, and the facts read from one record."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import orjson
import pytest

from analytics.facts import TELLERS, fact_of, is_counted
from local.stripe.builder import StripeEvents
from local.stripe.events import EXAMPLES, example
from local.stripe.payments import payment_intent
from schemas.errors import MalformedEvent
from schemas.figures import Fact, PaymentFigure, Recovery
from tests.kits.analyticskit import BEGIN, DAY, fact, figures, invoiced, make, moment, subscribed


def recovery(*facts: Fact) -> tuple[Any, ...]:
    (found,) = figures(facts, Recovery)
    assert isinstance(found, Recovery)
    return str(found.outcome), found.step, found.attempts, found.seconds


def paid(*facts: Fact) -> list[tuple[Any, ...]]:
    return [
        (str(row.kind), row.subject, row.at, row.amount)
        for row in figures(facts, PaymentFigure)
        if isinstance(row, PaymentFigure)
    ]


FIRST = invoiced(0, "payment_failed", attempts=1)
SECOND = invoiced(2 * DAY, "payment_failed", attempts=2)
LAST = invoiced(9 * DAY, "payment_failed", attempts=4, next_attempt=None)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([FIRST], ("open", "payment-failed", 1, None)),
        ([FIRST, SECOND], ("open", "payment-urgent", 2, None)),
        ([FIRST, invoiced(DAY, "paid")], ("recovered", "payment-failed", 1, DAY)),
        ([FIRST, SECOND, invoiced(5 * DAY, "paid")], ("recovered", "payment-reminder", 2, 5 * DAY)),
        ([FIRST, LAST], ("lost", "payment-final", 4, 9 * DAY)),
        ([FIRST, LAST, invoiced(20 * DAY, "paid")], ("recovered", "payment-final", 4, 20 * DAY)),
        ([FIRST, invoiced(DAY, "voided")], ("lost", "payment-failed", 1, DAY)),
        ([FIRST, invoiced(DAY, "marked_uncollectible")], ("lost", "payment-failed", 1, DAY)),
        ([FIRST, subscribed(DAY, type_="deleted")], ("lost", "payment-failed", 1, DAY)),
        ([FIRST, subscribed(DAY, status="unpaid")], ("lost", "payment-failed", 1, DAY)),
        ([invoiced(0, "payment_failed", paid_at=0, collection_method="send_invoice", next_attempt=None)],
         ("open", "payment-failed", 1, None)),
    ],
)  # fmt: skip
def test_the_outcome_of_a_failed_invoice(facts: list[Fact], expected: tuple[Any, ...]) -> None:
    assert recovery(*facts) == expected
    assert recovery(*reversed(facts)) == expected


def test_an_invoice_that_never_failed_is_no_recovery() -> None:
    assert figures([invoiced(0, "paid"), invoiced(0, "payment_succeeded")], Recovery) == []


def test_a_payment_counts_once_at_the_time_stripe_names() -> None:
    both = [invoiced(60, "paid", paid_at=BEGIN + 5), invoiced(61, "payment_succeeded", paid_at=BEGIN + 5)]
    assert paid(FIRST, *both) == [("invoice", "in_1", moment(5), 1000)]
    assert paid(FIRST, SECOND) == [("failed", "in_1", moment(2 * DAY), 1000)]
    assert paid(invoiced(0, "paid", amount=0)) == []


def test_a_purchase_counts_once_when_it_is_paid() -> None:
    def session(seconds: int, type_: str, status: str) -> bytes:
        obj = make.checkout_session(mode="payment", payment_status=status, amount=700)
        return orjson.dumps(make.event(f"checkout.session.{type_}", obj, BEGIN + seconds))

    facts = [
        fact_of(session(0, "completed", "unpaid")),
        fact_of(session(5, "completed", "paid")),
        fact_of(session(9, "async_payment_succeeded", "paid")),
    ]
    assert paid(*filter(None, facts[:1])) == []
    assert paid(*filter(None, reversed(facts))) == [("purchase", "cs_test_1", moment(5), 700)]


def test_a_purchase_that_is_captured_later_counts_at_its_capture() -> None:
    """99: its checkout ends unpaid. An intent of no checkout is none of our purchases."""
    session = make.checkout_session(mode="payment", payment_status="unpaid", amount=700, payment_intent="pi_1")
    open_one = fact(make.event("checkout.session.completed", session, BEGIN))

    def captured(intent: str, capture: str = "manual") -> Fact | None:
        made = payment_intent(make, intent, invoice=None, amount=600)
        made |= {"amount_received": 600, "capture_method": capture}
        return fact_of(orjson.dumps(make.event("payment_intent.succeeded", made, BEGIN + 5)))

    one, other = captured("pi_1"), captured("pi_2")
    assert one is not None
    assert other is not None
    assert captured("pi_1", "automatic") is None
    assert paid(open_one) == paid(other, open_one) == []
    for order in ([open_one, one], [one, open_one, one]):
        assert paid(*order) == [("purchase", "pi_1", moment(5), 600)]


def test_refunds_of_a_charge_are_the_steps_of_their_sum() -> None:
    def refunded(seconds: int, amount: int) -> Fact:
        charge = {"id": "ch_1", "object": "charge", "amount": 900, "amount_refunded": amount, "currency": "eur"}
        return fact(make.event("charge.refunded", charge | {"customer": "cus_1"}, BEGIN + seconds))

    assert paid(refunded(9, 900), refunded(5, 200), refunded(5, 100), refunded(7, 200)) == [
        ("refund", "ch_1", moment(5), 200),
        ("refund", "ch_1", moment(9), 700),
    ]


def test_a_refund_after_a_failed_one_counts() -> None:
    """The failed refund lowered the charge's sum, so that the next one does not pass the old sum."""

    def refunded(seconds: int, before: int, amount: int) -> Fact:
        charge = {"id": "ch_1", "object": "charge", "amount": 900, "amount_refunded": amount, "currency": "eur"}
        event = make.event("charge.refunded", charge | {"customer": "cus_1"}, BEGIN + seconds)
        event["data"]["previous_attributes"] = {"amount_refunded": before}
        return fact(event)

    first, third, last = refunded(5, 0, 500), refunded(9, 0, 500), refunded(11, 700, 900)
    assert [amount for *_, amount in paid(last, third, first)] == [500, 500, 400]  # the one from 500 to 700 is missing


def test_a_purchase_with_an_invoice_counts_once() -> None:
    obj = make.checkout_session(mode="payment", payment_status="paid", amount=1000, invoice="in_1")
    bought = fact(make.event("checkout.session.completed", obj, BEGIN))
    for facts in ([bought, invoiced(0, "paid")], [invoiced(0, "paid"), bought]):
        assert paid(*facts) == [("invoice", "in_1", moment(0), 1000)]
    assert paid(bought) == [("purchase", "cs_test_1", moment(0), 1000)]


def test_the_refund_of_a_transfer_is_no_second_refund() -> None:
    charge = {"id": "py_1", "amount": 900, "amount_refunded": 900, "currency": "eur", "source_transfer": "tr_1"}
    assert fact_of(orjson.dumps(make.event("charge.refunded", charge | {"object": "charge"}, BEGIN))) is None


def one_refund(seconds: int, type_: str, status: str, *, is_imported: bool = False) -> Fact:
    refund = {"id": "re_1", "object": "refund", "amount": 300, "currency": "eur", "charge": "ch_1", "status": status}
    event = make.event(type_, refund, BEGIN + seconds)
    return fact(event | {"id": f"imp_{event['id']}"} if is_imported else event)


def test_a_failed_refund_is_taken_back_once() -> None:
    created = one_refund(0, "refund.created", "pending")
    facts = [one_refund(5, type_, "failed") for type_ in ("refund.failed", "charge.refund.updated")]
    updated = one_refund(9, "refund.updated", "failed")
    for order in permutations([created, *facts, updated]):
        assert paid(*order) == [("refund", "re_1", moment(5), -300)]
    assert paid(*facts) == [("refund", "re_1", moment(5), -300)]
    assert paid(created, one_refund(3, "refund.updated", "succeeded")) == []


def test_E2_a_refund_that_an_import_reads_as_failed_is_not_taken_back_later() -> None:
    """The imported sum of its charge is without it. A later event of it, or a reading again, is no news."""
    read = one_refund(5, "refund.updated", "failed", is_imported=True)
    for order in permutations(
        [read, one_refund(9, "refund.updated", "failed"), one_refund(12, "refund.failed", "failed")]
    ):
        assert paid(*order) == []


@pytest.mark.parametrize("is_imported", [True, False])
def test_E2_a_failure_that_only_a_later_import_reads_is_taken_back(*, is_imported: bool) -> None:
    """The sum has counted the refund: an earlier import read it as pending, or its own event said so."""
    type_ = "refund.updated" if is_imported else "refund.created"
    counted = one_refund(1, type_, "pending", is_imported=is_imported)
    failed = one_refund(5, "refund.updated", "failed", is_imported=True)
    for order in permutations([counted, failed, one_refund(9, "refund.updated", "failed")]):
        assert paid(*order) == [("refund", "re_1", moment(5), -300)]


def test_an_invoice_that_is_credited_is_not_recovered() -> None:
    assert recovery(FIRST, invoiced(DAY, "paid", amount=0)) == ("lost", "payment-failed", 1, DAY)


def test_a_guest_is_stored_under_a_digest() -> None:
    """A guest's ordering key is an e-mail address, and the figures must not contain addresses."""
    obj = make.checkout_session(mode="payment", customer=None)
    found = fact_of(orjson.dumps(make.event("checkout.session.completed", obj, BEGIN)))
    assert found is not None
    assert found.owner.startswith("sha256:")
    assert b"example.com" not in orjson.dumps([found.owner, found.data])


@pytest.mark.parametrize("type_", sorted(EXAMPLES))
def test_each_example_is_read(type_: str) -> None:
    found = fact_of(orjson.dumps(example(type_, BEGIN, StripeEvents(account="acct_1", livemode=True))))
    assert (found is not None) <= is_counted(type_)
    if found is not None:
        assert (found.account, found.livemode, found.created) == ("acct_1", True, moment(0))


@pytest.mark.parametrize("type_", sorted(TELLERS))
def test_an_unreadable_record_is_reported(type_: str) -> None:
    with pytest.raises(MalformedEvent):
        fact_of(
            orjson.dumps({"id": "evt_1", "object": "event", "type": type_, "created": BEGIN, "data": {"object": {}}})
        )
    with pytest.raises(MalformedEvent):
        fact_of(orjson.dumps({"id": "evt_1", "object": "event", "type": type_, "created": BEGIN, "data": None}))
