"""Each field case in memory: the rules alone, one event after another."""

from __future__ import annotations

import pytest

from tests.field.harness import CASES, FieldCase, play, registered
from tests.field.stories import STORIES
from tests.unit.test_behaviours_table import exists


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


@pytest.mark.parametrize("id_", STORIES)
def test_each_story_names_tests_that_exist(id_: str) -> None:
    _, tests = STORIES[id_]
    assert tests
    assert [test for test in tests if not exists(test)] == []


def test_every_case_has_an_expectation() -> None:
    """Parts of one case are played together."""
    expected = {number.partition("/")[0] for field_case in registered() for number in field_case.numbers}
    assert {file.name.split("-")[0] for file in CASES.glob("*.jsonl")} - expected == set()
