"""Rows as values: they are copied with changes and compared by their fields."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from schemas.event import Event
from schemas.fast_row import replace
from schemas.state import Customer, User

ADA = Customer(account="", customer_id="cus_1", email="ada@example.com")


def test_replace_changes_the_copy_only() -> None:
    copy = replace(ADA, email=None, name="Ada")
    assert (copy.customer_id, copy.email, copy.name) == ("cus_1", None, "Ada")
    assert (ADA.email, ADA.name) == ("ada@example.com", None)
    assert copy == dataclasses.replace(ADA, email=None, name="Ada")


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
