"""Standstill as measured by the scale run: time in which a lane had work and applied none."""

from __future__ import annotations

from tests.chaos.standstill import LaneEvent, Longest, Standstill, longest_between, standstills


def _found(*steps: tuple[float, float]) -> list[Standstill]:
    return standstills(LaneEvent("lane", received, applied) for received, applied in steps).get("lane", [])


def test_an_idle_lane_has_no_standstill() -> None:
    """The second event came ten seconds later and was applied at once."""
    assert _found((0.0, 0.1), (10.0, 10.2)) == [Standstill(10.0, 10.2)]


def test_waiting_work_counts_from_the_previous_application() -> None:
    """The event came before the previous one was applied, so the standstill starts at that application."""
    assert _found((0.0, 1.0), (0.5, 6.0)) == [Standstill(1.0, 6.0)]


def test_the_oldest_waiting_event_counts() -> None:
    """The events are applied out of order (another customer's batch): one has waited since second 2."""
    assert _found((0.0, 1.0), (8.0, 9.0), (2.0, 10.0)) == [Standstill(2.0, 9.0), Standstill(9.0, 10.0)]


def test_events_applied_together_have_no_standstill() -> None:
    """All events of a batch have the same time."""
    assert _found((0.0, 1.0), (0.1, 1.0)) == []


def test_a_standstill_counts_in_the_period_where_it_happens() -> None:
    """A standstill across two periods is split between them. A lane without a standstill counts as 0."""
    found = {"a": [Standstill(8.0, 14.0)], "b": [], "c": [Standstill(11.0, 12.0)]}
    assert longest_between(found, 0.0, 10.0) == Longest([2.0, 0.0, 0.0])
    later = longest_between(found, 10.0, 20.0)
    assert (later.worst, later.middle, later.longer_than(1.0)) == (4.0, 1.0, 1)
