"""What an event changed: the fields that differ, without bookkeeping and without another customer's personal data."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.changes import Before, changes_of
from schemas.fast_row import replace
from schemas.known import Known
from schemas.settings import Config
from schemas.state import Customer, Organization, Payment, PaymentMethod, Row, Subscription, User
from schemas.statuses import OrganizationStatus, SubscriptionStatus
from schemas.version import Version
from sinks.postgres import tables

JANE = Customer(account="", customer_id="cus_1", email="jane@example.com", name="Jane")
SUBSCRIPTION = Subscription(account="", subscription_id="sub_1", customer_id="cus_1", version=Version("1:2:3:evt_1"))


def changes(*saved: Row, stored: tuple[Row, ...] = (), customer_id: str | None = "cus_1") -> list[dict[str, Any]]:
    rows = Before(Known(Config(), stored))
    for row in saved:
        rows.save(row)
    return changes_of(rows.pairs(), customer_id)


def test_only_fields_that_differ_are_kept() -> None:
    active = replace(SUBSCRIPTION, status=SubscriptionStatus.ACTIVE, plan="pro", version=Version("1:3:3:evt_2"))
    assert changes(active, stored=(SUBSCRIPTION,)) == [
        {
            "table": "subscriptions",
            "key": "sub_1",
            "did": "updated",
            "fields": {"status": ["incomplete", "active"], "plan": [None, "pro"]},
        }
    ]


def test_a_new_row_has_all_fields_that_are_not_empty() -> None:
    (change,) = changes(Payment(payment_id="pay_1", account="", invoice_id="in_1", amount=2900, currency="eur"))
    assert change["did"] == "created"
    assert change["fields"] == {
        "payment_id": [None, "pay_1"],
        "invoice_id": [None, "in_1"],
        "amount": [None, 2900],
        "currency": [None, "eur"],
        "status": [None, "pending"],
    }


def test_several_writes_of_one_row_are_one_change() -> None:
    first = replace(SUBSCRIPTION, status=SubscriptionStatus.ACTIVE)
    second = replace(first, status=SubscriptionStatus.CANCELED)
    (change,) = changes(first, second, stored=(SUBSCRIPTION,))
    assert change["fields"] == {"status": ["incomplete", "canceled"]}
    assert changes(first, SUBSCRIPTION, stored=(SUBSCRIPTION,)) == []


def test_a_removed_row_is_named_with_what_it_had() -> None:
    rows = Before(Known(Config(), (JANE,)))
    rows.remove(JANE)
    (change,) = changes_of(rows.pairs(), "cus_1")
    assert (change["did"], change["fields"]["email"]) == ("removed", ["jane@example.com", None])


def test_a_row_in_which_only_its_version_differs_is_no_change() -> None:
    assert changes(replace(SUBSCRIPTION, version=Version("1:9:9:evt_9")), stored=(SUBSCRIPTION,)) == []


def test_fields_of_json_columns_are_compared_one_by_one() -> None:
    before = Payment(payment_id="pay_1", account="", dunning_steps={"payment-failed": "2026-03-01"})
    after = replace(before, dunning_steps={"payment-failed": "2026-03-01", "payment-reminder": "2026-03-04"})
    (change,) = changes(after, stored=(before,))
    assert change["fields"] == {"dunning_steps.payment-reminder": [None, "2026-03-04"]}


@pytest.mark.parametrize("customer_id", ["cus_2", None])
def test_an_event_keeps_no_personal_data_of_another_customer(customer_id: str | None) -> None:
    """An erasure clears the events of its customer, and would not find this one."""
    gone = replace(JANE, email="new@example.com", name="Kim", address={"city": "Bonn"}, deleted_at=datetime.now(UTC))
    card = PaymentMethod(account="", payment_method_id="pm_1", customer_id="cus_1", brand="visa", last4="4242")
    organization = Organization(
        organization_id="org_1",
        account="",
        customer_id="cus_1",
        name="Jane",
        billing_email="jane@example.com",
        status=OrganizationStatus.ACTIVE,
    )
    user = User(account="", user_id="u_1", email="jane@example.com", address_of="cus_1")
    found = changes(gone, card, organization, user, stored=(JANE,), customer_id=customer_id)
    assert [(change["table"], sorted(change["fields"])) for change in found] == [
        ("customers", ["deleted_at"]),
        ("payment_methods", ["customer_id", "payment_method_id"]),
        ("organizations", ["customer_id", "organization_id", "status"]),
        ("users", ["user_id"]),
    ]


def test_a_user_keeps_no_address_in_any_event() -> None:
    (change,) = changes(User(account="acct_1", user_id="u_1", email="jane@example.com"))
    assert (change["key"], change["fields"]) == ("acct_1/u_1", {"account": [None, "acct_1"], "user_id": [None, "u_1"]})


def test_each_change_names_its_table() -> None:
    rows = Before(Known(Config()))
    named = {kind: table.name for kind, table in tables.STATE_TABLES.items()}
    rows.save(JANE)
    rows.save(PaymentMethod(account="", payment_method_id="pm_1", customer_id="cus_1"))
    assert {change["table"] for change in changes_of(rows.pairs(), "cus_1")} <= set(named.values())
    from schemas import changes as module

    assert named == module.TABLE_NAMES


def test_a_list_of_objects_is_one_field_and_an_object_is_one_for_each_of_its_own() -> None:
    """The items of a subscription are a list; the limits of an organization an object."""
    before = Subscription(account="", subscription_id="sub_1", customer_id="cus_1", items=[{"price": "price_a"}])
    after = replace(before, items=[{"price": "price_b"}])
    (change,) = changes_of([(before, after)], "cus_1")
    assert change["fields"] == {"items": [[{"price": "price_a"}], [{"price": "price_b"}]]}
    organization = Organization(
        organization_id="org_1", account="", customer_id="cus_1", name="A", limits={"seats": 1, "a": 2}
    )
    (change,) = changes_of([(organization, replace(organization, limits={"seats": 5, "a": 2}))], "cus_1")
    assert change["fields"] == {"limits.seats": [1, 5]}
    (created,) = changes_of([(None, organization)], "cus_1")
    assert {"limits.seats": [None, 1], "limits.a": [None, 2]}.items() <= created["fields"].items()
    (removed,) = changes_of([(organization, None)], "cus_1")
    assert {"limits.seats": [1, None], "limits.a": [2, None]}.items() <= removed["fields"].items()
