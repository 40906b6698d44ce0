"""tests/order.py names files that exist, and pytest runs them first."""

from __future__ import annotations

import pytest

from tests.order import LONGEST, TESTS, place_of


def test_the_listed_files_exist_once() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_a_listed_file_comes_before_the_others(request: pytest.FixtureRequest) -> None:
    assert place_of(TESTS / LONGEST[0]) < place_of(TESTS / LONGEST[1]) < place_of(TESTS / "unit" / "test_order.py")
    places = [place_of(item.path) for item in request.session.items]
    assert places == sorted(places)
