"""The events of an import: their ids, and which other events they make unnecessary (F1)."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from local.stripe import payments as pay
from local.stripe.builder import StripeEvents
from recovery.imports.coverage import is_covered
from recovery.imports.objects import entries_of
from schemas.state import Payment
from sinks.stripe_api.listing import ListPage
from tests.kits.paymentkit import PatientWorld
from tests.kits.rulekit import CONFIG, DAY, NOW, decide
from tests.oracle.figures import figure_faults

MAKE = StripeEvents()

BEGAN = datetime(2026, 11, 23, 9, tzinfo=UTC)
SUBSCRIPTION = {"id": "sub_1", "object": "subscription", "status": "active", "ended_at": None}
OPEN = {"id": "in_1", "object": "invoice", "status": "open", "attempt_count": 0}
PAID = {"id": "in_1", "object": "invoice", "status": "paid", "status_transitions": {"paid_at": 1_790_000_000}}


def ids(obj: dict[str, Any], began_at: datetime, read_at: datetime) -> list[str]:
    page = ListPage([], False, read_at, "req_1", "2025-03-31.basil")
    made = entries_of(obj, page, account="", livemode=False, now=read_at, began_at=began_at)
    return [orjson.loads(entry.value)["id"] for entry in made]


@pytest.mark.parametrize("obj", [SUBSCRIPTION, OPEN, {"id": "cus_1", "object": "customer"}])
def test_a_state_that_came_back_is_imported_again(obj: dict[str, Any]) -> None:
    """The first import says A, a live event B, and A is true again: the second import has to say it."""
    first = ids(obj, BEGAN, BEGAN + timedelta(seconds=5))
    assert ids(obj, BEGAN, BEGAN + timedelta(hours=1)) == first  # the same import, continued
    assert ids(obj, BEGAN + timedelta(seconds=1), BEGAN + timedelta(seconds=5)) != first


def test_what_is_dated_by_itself_is_the_same_event_in_every_import() -> None:
    assert ids(PAID, BEGAN, BEGAN) == ids(PAID, BEGAN + timedelta(days=9), BEGAN + timedelta(days=9))
    over = SUBSCRIPTION | {"status": "canceled", "start_date": 1_780_000_000, "ended_at": 1_790_000_000}
    (start, end), (start_again, end_again) = ids(over, BEGAN, BEGAN), ids(over, BEGAN + timedelta(days=9), BEGAN)
    assert (start == start_again, end == end_again) == (True, False)


@pytest.mark.parametrize(
    ("type_", "is_read"),
    [
        ("customer.subscription.updated", True),
        ("invoice.paid", True),
        ("charge.refunded", True),
        ("charge.dispute.closed", True),
        ("refund.updated", True),
        ("checkout.session.completed", False),
        ("account.application.deauthorized", False),
        ("payout.failed", False),
        ("radar.early_fraud_warning.created", False),
        ("payment_intent.succeeded", False),
        ("charge.succeeded", False),
        ("charge.failed", False),
        ("plugin.own", False),
    ],
)
def test_only_events_about_what_an_import_reads_need_not_arrive(type_: str, is_read: bool) -> None:
    until = datetime(2026, 11, 23, tzinfo=UTC)
    event = {"type": type_, "created": int(until.timestamp()) - 1}
    assert is_covered(event, until) is is_read
    assert not is_covered(event | {"created": int(until.timestamp())}, until)
    assert not is_covered(event, None)


def _imported(refunds: list[dict[str, Any]], read_at: int) -> list[dict[str, Any]]:
    page = ListPage([], False, datetime.fromtimestamp(read_at, UTC), "req_1", "2025-03-31.basil")
    given = {"account": "", "livemode": False, "now": BEGAN, "began_at": BEGAN}
    made = [entry for one in refunds for entry in entries_of(one, page, **given)]  # type: ignore[arg-type]  # as above
    return [orjson.loads(entry.value) for entry in made]


def _refund(id_: str, amount: int, created: int, status: str = "succeeded", *, charge: object = "ch_1") -> Any:
    return pay.refund(MAKE, id_, amount=amount, created=created, status=status) | {"charge": charge}


@pytest.mark.parametrize("is_failing_meanwhile", [True, False])
@pytest.mark.parametrize("invoice", ["in_1", None])
def test_C8_refunds_that_fail_before_and_after_they_are_imported_are_taken_back(
    invoice: str | None, *, is_failing_meanwhile: bool
) -> None:
    """40 fails before the charge is read, and its event may arrive. 60 is created later, and fails after the import."""
    read_at, charge = NOW + 7 * DAY, pay.charge(MAKE, amount=2900, refunded=60, invoice=None)
    imported = _imported(
        [
            _refund("re_2", 60, NOW + 3 * DAY, "pending", charge=charge),
            _refund("re_1", 40, NOW, "failed", charge=charge),
        ],
        read_at,
    )
    assert [event["type"] for event in imported] == ["charge.refunded", "refund.updated", "refund.updated"]
    assert "billing_details" not in orjson.dumps(imported[1:]).decode()
    paid = MAKE.invoice(status="paid", created=NOW, payment_intent="pi_1", charge="ch_1")
    link = pay.invoice_payment(MAKE, payment_intent="pi_1")
    base = [MAKE.event("invoice.paid", paid, NOW), MAKE.event("invoice_payment.paid", link, NOW)] if invoice else []
    live = [MAKE.event("refund.failed", _refund("re_1", 40, NOW, "failed"), NOW + 5 * DAY)]
    events = [*imported, *(live if is_failing_meanwhile else [])]
    for order in itertools.permutations(events):
        for begin in (base, []):
            world = PatientWorld().apply(*begin, *order, *(base if not begin else ())).give_up()
            (row,) = world.rows(Payment)
            assert (row.refunded_amount, row.amount, row.customer_id) == (60, 2900, "cus_1")
            world.apply(MAKE.event("refund.failed", _refund("re_2", 60, NOW, "failed"), NOW + 9 * DAY))
            assert [row.refunded_amount for row in world.rows(Payment)] == [0]


def test_C8_a_refund_that_fails_while_it_is_read_is_taken_back_once() -> None:
    """The request takes 3 seconds and is dated by its begin. The refund fails in the second of them."""
    charge = pay.charge(MAKE, amount=2900, refunded=60, invoice=None)
    imported = _imported([_refund("re_1", 40, NOW, "failed", charge=charge)], NOW + DAY)
    failed = MAKE.event("refund.failed", _refund("re_1", 40, NOW, "failed"), NOW + DAY + 2)
    for order in itertools.permutations([*imported, failed]):
        (row,) = PatientWorld().apply(*order).give_up().rows(Payment)
        assert row.refunded_amount == 60


def test_E2_figures_agree_with_the_tables_about_refunds_that_fail_before_and_after_an_import() -> None:
    """re_1 has failed before the import, and its metadata change later. re_2 fails later."""
    charge = pay.charge(MAKE, amount=2900, refunded=60, invoice=None)
    re_1 = _refund("re_1", 40, NOW, "failed", charge=charge)
    imported = _imported([_refund("re_2", 60, NOW + DAY, "pending", charge=charge), re_1], NOW + 2 * DAY)
    updated = MAKE.event("refund.updated", re_1 | {"charge": "ch_1", "metadata": {"note": "x"}}, NOW + 3 * DAY)
    failed = MAKE.event("refund.failed", _refund("re_2", 60, NOW + DAY, "failed"), NOW + 4 * DAY)
    for events in ([*imported, updated], [*imported, updated, failed], [updated, failed, *imported]):
        rows = PatientWorld().apply(*events).give_up().rows(Payment)
        assert figure_faults(events, [], rows, CONFIG) == []


def test_C8_a_lost_refund_of_a_connected_account_s_transfer_is_no_payment() -> None:
    charge = pay.charge(MAKE, "py_1", payment_intent=None, source_transfer="tr_1")
    (event,) = _imported([_refund("re_1", 40, NOW, "failed", charge=charge)], NOW + 1)
    assert decide(event) == []


def test_C15_a_credit_note_that_an_imported_invoice_contains_is_not_deducted_again() -> None:
    """The failure is dated when the invoice was finalized, the note came later, and what is owed was read after it."""
    read_at = NOW + 3 * DAY
    owed = MAKE.invoice(status="open", created=NOW, attempts=1, amount_due=2000, amount_remaining=2000)
    imported = _imported([owed | {"status_transitions": {"finalized_at": NOW}}], read_at)
    assert [(event["type"], event["created"]) for event in imported] == [
        ("invoice.payment_failed", NOW),
        ("invoice.updated", read_at),
    ]
    note = pay.credit_note(MAKE, created=NOW + DAY)
    later = pay.credit_note(MAKE, "cn_2", created=read_at + 1)
    events = [*imported, MAKE.event("credit_note.created", note, NOW + DAY)]
    for order in ([0, 1, 2], [2, 0, 1], [0, 2, 1]):
        world = PatientWorld().apply(*(events[at] for at in order)).give_up()
        assert world.payment().amount_remaining == 2000
        world.apply(MAKE.event("credit_note.created", later, read_at + 1))
        assert world.payment().amount_remaining == 1100
