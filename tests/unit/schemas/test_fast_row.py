"""Rows as values: they are copied with changes and compared by their fields."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import pytest

from schemas.event import Event
from schemas.fast_row import replace, values_of
from schemas.state import Customer, User, derived_id
from schemas.stripe.subscription import SubscriptionItem
from streams.rules.subscription_row import plain_items

ADA = Customer(account="", customer_id="cus_1", email="ada@example.com")


def test_replace_changes_the_copy_only() -> None:
    copy = replace(ADA, email=None, name="Ada")
    assert (copy.customer_id, copy.email, copy.name) == ("cus_1", None, "Ada")
    assert (ADA.email, ADA.name) == ("ada@example.com", None)
    assert copy == dataclasses.replace(ADA, email=None, name="Ada")


def test_fields_are_read_in_the_order_of_their_names_with_and_without_slots() -> None:
    @dataclasses.dataclass(slots=True)
    class Slotted:
        one: int = 1
        two: int = 2

    assert values_of(Customer, ("email", "customer_id"))(ADA) == ("ada@example.com", "cus_1")
    assert values_of(Slotted, ("two", "one"))(Slotted()) == (2, 1)


def test_an_id_is_that_of_a_uuid_of_version_5() -> None:
    expected = uuid.uuid5(uuid.UUID("6f6c7d5e-5b1f-4c55-9a5e-2f1c3f0b8a11"), "acct_1/cus_ü")
    assert derived_id("org", "acct_1", "cus_ü") == f"org_{expected.hex}"


def test_an_item_of_a_row_is_what_pydantic_dumps() -> None:
    item = SubscriptionItem(id="si_1", price="price_pro", quantity=2, unit_amount=900, currency="eur")
    assert plain_items([item]) == [item.model_dump()]


def test_an_unknown_field_is_refused() -> None:
    changes: dict[str, Any] = {"e_mail": None}
    with pytest.raises(TypeError, match="Customer has no e_mail"):
        replace(ADA, **changes)


def test_rows_are_compared_by_kind_and_fields() -> None:
    assert replace(ADA) == ADA
    assert replace(ADA, name="Ada") != ADA
    stranger: object = User(account="", user_id="cus_1")
    assert hash(User(account="", user_id="cus_1")) == hash(stranger)
    assert stranger != ADA


def test_an_event_has_its_version_however_it_is_created() -> None:
    made: dict[str, Any] = {"type": "t", "livemode": True, "account": "", "customer_id": None, "api_version": None}
    event = Event(id="evt_1", created=5, previous={}, object=None, rank=10, **made)
    assert event.version == "0:000000000005:10:evt_1"
    assert dataclasses.replace(event, terminal=True).version == "1:000000000005:10:evt_1"
