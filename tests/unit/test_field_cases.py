"""Each field case in memory: the rules alone, one event after another."""

from __future__ import annotations

import pytest

from tests.field.harness import CASES, FieldCase, play, registered


@pytest.mark.parametrize("field_case", registered(), ids=str)
def test_field(field_case: FieldCase) -> None:
    field_case.check(play(field_case))


def test_no_event_of_any_case_is_dead() -> None:
    """Every case is played, also those without an expectation."""
    dead = {}
    for file in sorted(CASES.glob("*.jsonl")):
        number = file.name.split("-")[0]
        if len(list(CASES.glob(f"{number}-*.jsonl"))) == 1:
            dead[number] = play(FieldCase((number,), lambda _: None, False)).dead
    assert {number: found for number, found in dead.items() if found} == {}
