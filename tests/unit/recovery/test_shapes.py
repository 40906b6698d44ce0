"""The structure of a dead event beside a good one: fields that are missing, and values of another kind."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from recovery.rehearsal.shapes import (
    MOST,
    MOST_FAILING,
    ShapeDifference,
    compared_at,
    differences,
    failing_places,
    is_same_place,
    kind_at,
    values_at,
)
from schemas.stripe.subscription import StripeSubscription


def found(dead: object, good: object) -> list[tuple[str, str, str]]:
    return [(one.path, one.dead, one.good) for one in differences(dead, good)]


def test_values_do_not_matter() -> None:
    assert differences({"id": "a", "n": 1, "is": True}, {"id": "b", "n": 2.5, "is": False}) == []


def test_another_kind_of_value_is_found_where_it_is() -> None:
    dead = {"data": {"object": {"charge": {"id": "ch_1"}, "amount": "100"}}}
    good = {"data": {"object": {"charge": "ch_2", "amount": 100}}}
    assert differences(dead, good) == [
        ShapeDifference("data.object.amount", "text", "number"),
        ShapeDifference("data.object.charge", "object", "text"),
        ShapeDifference("data.object.charge.id", "text", "missing"),
    ]


def test_a_missing_object_is_one_difference() -> None:
    assert found({}, {"customer": {"id": "cus_1", "address": {"city": "Bonn"}}}) == [("customer", "missing", "object")]


@pytest.mark.parametrize("fits", [{"a": None}, {"a": "text"}])
def test_null_fits_every_kind(fits: object) -> None:
    assert differences({"a": None}, fits) == []


def test_entries_of_a_list_are_one_place() -> None:
    dead = {"lines": [{"price": "p"}, {"price": {"id": "p"}}]}
    assert found(dead, {"lines": [{"price": "p"}]}) == [
        ("lines[].price", "object or text", "text"),
        ("lines[].price.id", "text", "missing"),
    ]


def test_an_empty_list_is_no_difference() -> None:
    assert differences({"lines": []}, {"lines": [{"price": "p"}]}) == []


def test_keys_that_people_choose_do_not_matter() -> None:
    assert differences({"metadata": {"mine": "1"}}, {"metadata": {"yours": "2"}}) == []


def test_what_has_changed_differs_between_any_two_events() -> None:
    changed = {"data": {"previous_attributes": {"plan": {"id": "p"}}}}
    assert differences(changed, {"data": {}}) == differences({"data": {}}, changed) == []
    assert differences(changed, {"data": {"previous_attributes": {"status": "active"}}}) == []
    assert found({"data": {"previous_attributes": "x"}}, changed) == [("data.previous_attributes", "text", "object")]


def test_a_deep_or_wide_event_has_an_end() -> None:
    deep: object = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert len(differences(deep, {})) == 1
    assert len(differences({str(n): 1 for n in range(1000)}, {})) == MOST


@pytest.mark.parametrize(
    ("message", "places"),
    [
        ("data.object.status: Input should be 'open'", ["data.object.status"]),
        ("data.object.items.data.0.price: Field required", ["data.object.items.data[].price"]),
        ("data.object.lines.data.12: Input should be a valid dictionary", ["data.object.lines.data[]"]),
        ("data.object.a: Input is odd; it is; data.object.b: Field required", ["data.object.a", "data.object.b"]),
        ("data.object.lines.0.x: Wrong; data.object.lines.1.x: Wrong", ["data.object.lines[].x"]),
        ("; ".join(f"data.object.f{at}: no" for at in range(99)), [f"data.object.f{at}" for at in range(MOST_FAILING)]),
        ("data.object.a: Wrong; data.object.cut off he", ["data.object.a"]),
        ("boom", []),
        ("invoice in_1: no such customer", []),
    ],
)
def test_the_places_that_an_error_names(message: str, places: list[str]) -> None:
    assert failing_places(message) == places


def test_the_values_at_a_place() -> None:
    event = {"data": {"lines": [{"price": "a"}, {}, {"price": None}]}}
    assert values_at(event, "data.lines[].price") == ["a", None]
    assert kind_at(event, "data.lines[].price") == "null or text"
    assert kind_at(event, "data.lines[].amount") == "missing"
    assert values_at({"list": [[1], [2]]}, "list[][]") == [1, 2]


def _subscription(quantity: object = 1, **fields: object) -> dict[str, Any]:
    item = {"id": "si_1", "price": {"id": "price_1"}, "quantity": quantity, "current_period_end": 1_800_000_000}
    items = {"object": "list", "data": [item | fields]}
    return {"id": "sub_1", "status": "active", "items": items}


def test_the_place_of_a_model_is_found_in_stripes_list() -> None:
    """The error of the model names `items.0`, where Stripe's event has `items.data`."""
    raw = _subscription("x")
    with pytest.raises(ValidationError) as refused:
        StripeSubscription.model_validate(raw)
    named = ".".join(map(str, refused.value.errors()[0]["loc"]))
    (place,) = failing_places(f"data.object.{named}: Input should be a valid integer")
    assert place == "data.object.items[].quantity"
    dead, good = ({"data": {"object": one}} for one in (raw, _subscription()))
    assert values_at(dead, place) == ["x"]
    assert compared_at(place, dead, good) == ShapeDifference(place, "text", "number")
    assert [one.path for one in differences(dead, good) if not is_same_place(one.path, place)] == []
    assert values_at({"items": {"object": "list", "data": {"a": 1}}}, "items[]") == []
    assert values_at({"items": {"data": ["of no list"]}}, "items[]") == []


@pytest.mark.parametrize("name", ["current_period_end", "cancellation_reason", "resumes_at", "user_id"])
def test_a_place_that_only_the_model_has_is_compared_with_nothing(name: str) -> None:
    dead, good = ({"data": {"object": one}} for one in (_subscription(current_period_end="soon"), _subscription()))
    assert compared_at(f"data.object.{name}", dead, good) is None
    assert [one.path for one in differences(dead, good)] == ["data.object.items.data[].current_period_end"]


def test_a_place_that_one_of_them_lacks_is_compared() -> None:
    place = "data.object.status"
    assert compared_at(place, {}, {"data": {"object": {"status": None}}}) == ShapeDifference(place, "missing", "null")
