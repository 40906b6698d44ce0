"""The structure of a dead event beside a good one: fields that are missing, and values of another kind."""

from __future__ import annotations

import pytest

from recovery.rehearsal.shapes import MOST, ShapeDifference, differences, failing_place, kind_at, values_at


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


def test_a_deep_or_wide_event_has_an_end() -> None:
    deep: object = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert len(differences(deep, {})) == 1
    assert len(differences({str(n): 1 for n in range(1000)}, {})) == MOST


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("data.object.status: Input should be 'open'", "data.object.status"),
        ("data.object.items.data.0.price: Field required", "data.object.items.data[].price"),
        ("data.object.lines.data.12: Input should be a valid dictionary", "data.object.lines.data[]"),
        ("boom", None),
        ("invoice in_1: no such customer", None),
    ],
)
def test_the_place_that_an_error_names(message: str, place: str | None) -> None:
    assert failing_place(message) == place


def test_the_values_at_a_place() -> None:
    event = {"data": {"lines": [{"price": "a"}, {}, {"price": None}]}}
    assert values_at(event, "data.lines[].price") == ["a", None]
    assert kind_at(event, "data.lines[].price") == "null or text"
    assert kind_at(event, "data.lines[].amount") == "missing"
    assert values_at({"list": [[1], [2]]}, "list[][]") == [1, 2]
