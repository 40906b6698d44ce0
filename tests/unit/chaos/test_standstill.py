"""Standstill as the scale run measures it: time in which a lane had work and applied none of it."""

from __future__ import annotations

from tests.chaos.standstill import Longest, Standstill, Step, longest_between, standstills


def _found(*steps: tuple[float, float]) -> list[Standstill]:
    return standstills(Step("lane", received, applied) for received, applied in steps).get("lane", [])


def test_a_lane_that_had_nothing_to_do_did_not_stand_still() -> None:
    """Between two events lie ten seconds, and the second was applied as soon as it came."""
    assert _found((0.0, 0.1), (10.0, 10.2)) == [Standstill(10.0, 10.2)]


def test_work_that_waits_behind_an_application_stands_from_there() -> None:
    """It had come before the last thing was applied: the lane stood from that on, not from its coming."""
    assert _found((0.0, 1.0), (0.5, 6.0)) == [Standstill(1.0, 6.0)]


def test_the_oldest_that_waits_counts_not_the_next_one_applied() -> None:
    """Applied out of the order of their coming (another customer's batch): something waited since 2."""
    assert _found((0.0, 1.0), (8.0, 9.0), (2.0, 10.0)) == [Standstill(2.0, 9.0), Standstill(9.0, 10.0)]


def test_what_is_applied_together_is_no_standstill() -> None:
    """One batch has one time."""
    assert _found((0.0, 1.0), (0.1, 1.0)) == []


def test_a_standstill_counts_where_it_lies() -> None:
    """Of one that spans two changes, each has its part; a lane without any counts as nought."""
    found = {"a": [Standstill(8.0, 14.0)], "b": [], "c": [Standstill(11.0, 12.0)]}
    assert longest_between(found, 0.0, 10.0) == Longest([2.0, 0.0, 0.0])
    later = longest_between(found, 10.0, 20.0)
    assert (later.worst, later.middle, later.longer_than(1.0)) == (4.0, 1.0, 1)
