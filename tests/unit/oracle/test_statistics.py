"""The statistics of numbered lives: what was lived and compared, and that a difference is named."""

from __future__ import annotations

import pytest

from tests.kits.lifekit import numbered_course
from tests.oracle.mutations import last_arrival_wins
from tests.oracle.statistics import statistics


def test_the_statistics_count_what_was_lived_and_compared() -> None:
    found = statistics(range(6))
    assert found.lives == sum(found.deliveries.values()) == 6
    assert found.events == sum(found.types.values()) > 50
    assert found.fields["Subscription status"] >= 6
    assert found.fields["Payment amount"] > 0
    assert found.differing == {}
    assert found.lines()[0] == "lives        6, 0 of them differ"


def test_a_life_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    last_arrival_wins(monkeypatch)
    found = statistics(range(30))
    number, what = min(found.differing.items())
    assert f"life {number}: {what}" in found.lines()


def test_the_same_number_is_the_same_life() -> None:
    assert repr(numbered_course(17)) == repr(numbered_course(17)) != repr(numbered_course(18))
