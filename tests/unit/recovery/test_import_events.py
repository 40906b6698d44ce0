"""The events of an import: their ids, and which other events they make unnecessary (F1)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from recovery.imports.coverage import is_covered
from recovery.imports.objects import entries_of
from sinks.stripe_api.listing import ListPage

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
