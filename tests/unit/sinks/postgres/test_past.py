"""The state before events: their changes undone, the newest first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sinks.postgres.lists.past import access_at, keyed, not_shown, undone


def event(*changes: tuple[str, str, str, dict[str, list[Any]]]) -> dict[str, Any]:
    names = ("table", "key", "did", "fields")
    return {"changes": [dict(zip(names, change, strict=True)) for change in changes]}


CREATED = event(
    ("subscriptions", "sub_1", "created", {"subscription_id": [None, "sub_1"], "status": [None, "trialing"]})
)
ACTIVE = event(("subscriptions", "sub_1", "updated", {"status": ["trialing", "active"]}))
PAST_DUE = event(("subscriptions", "sub_1", "updated", {"status": ["active", "past_due"], "payment_attempts": [0, 2]}))
NOW = {"subscriptions": {"sub_1": {"subscription_id": "sub_1", "status": "past_due", "payment_attempts": 2}}}


def test_each_step_back_gives_the_state_before_it() -> None:
    assert undone(NOW, [PAST_DUE])["subscriptions"]["sub_1"] == {
        "subscription_id": "sub_1",
        "status": "active",
        "payment_attempts": 0,
    }
    assert undone(NOW, [PAST_DUE, ACTIVE])["subscriptions"]["sub_1"]["status"] == "trialing"
    assert undone(NOW, [PAST_DUE, ACTIVE, CREATED]) == {}
    assert NOW["subscriptions"]["sub_1"]["status"] == "past_due", "the present is not changed"


def test_a_removed_row_comes_back() -> None:
    merged = event(("payments", "pay_2", "removed", {"payment_id": ["pay_2", None], "amount": [500, None]}))
    assert undone({"payments": {}}, [merged]) == {"payments": {"pay_2": {"payment_id": "pay_2", "amount": 500}}}


def test_rows_that_are_not_loaded_do_not_appear_in_part() -> None:
    closed = event(
        ("disputes", "dp_1", "updated", {"status": ["needs_response", "lost"]}), ("users", "u_1", "removed", {})
    )
    pruned = event(("subscriptions", "sub_9", "updated", {"status": ["active", "canceled"]}))
    assert undone(NOW, [closed, pruned]) == NOW
    assert not_shown(NOW, [closed, pruned]) == ["disputes", "users"]


def test_two_changes_of_one_row_in_one_event_are_undone_backwards() -> None:
    both = event(("x", "1", "created", {"a": [None, 1]}), ("x", "1", "updated", {"a": [1, 2]}))
    assert undone({"x": {"1": {"a": 2}}}, [both]) == {}


def test_parts_of_json_columns_are_undone_in_place() -> None:
    reached = event(("payments", "pay_1", "updated", {"dunning_steps.final": [None, "b"], "owed.due": [100, 50]}))
    now = {"payments": {"pay_1": {"dunning_steps": {"first": "a", "final": "b"}, "owed": {"due": 50}}}}
    assert undone(now, [reached]) == {"payments": {"pay_1": {"dunning_steps": {"first": "a"}, "owed": {"due": 100}}}}


def test_rows_are_keyed_as_the_ledger_names_them() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    rows: list[dict[str, Any]] = [
        {"account": "", "customer_id": "cus_1", "deleted_at": at},
        {"account": "acct_1", "customer_id": "cus_1", "deleted_at": None},
    ]
    found = keyed("customers", ("account", "customer_id"), rows)["customers"]
    assert list(found) == ["cus_1", "acct_1/cus_1"]
    assert found["cus_1"]["deleted_at"] == "2026-03-01T00:00:00+00:00"


def test_access_at_a_moment_counts_grace_times_that_had_ended() -> None:
    day = datetime(2026, 11, 9, tzinfo=UTC)
    row = {
        "has_access": True,
        "plan": "pro",
        "access_reason": "past_due",
        "access_until": day.isoformat(),
        "access_after": {
            "has_access": True,
            "plan": "starter",
            "reason": "active",
            "then": [
                {"until": (day + timedelta(days=2)).isoformat(), "has_access": False, "plan": None, "reason": "unpaid"}
            ],
        },
    }
    found = [access_at(row, day + timedelta(days=days)) for days in (-1, 1, 2)]
    assert [(one["has_access"], one["plan"], one["reason"]) for one in found] == [
        (True, "pro", "past_due"),
        (True, "starter", "active"),
        (False, None, "unpaid"),
    ]
    assert access_at({"has_access": False, "plan": None, "access_reason": "canceled"}, day)["reason"] == "canceled"
