"""The tries of a mail follow the timetable in the docstring."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.timing import pause_while_down
from sinks.email.delivery import TIMETABLE, TRIES, UNKNOWN_RECIPIENT_LIMIT, pause_for_recipient

pause_after = TIMETABLE.pause_after

chances = st.floats(0, 1, exclude_max=True)


def test_the_timetable_is_the_one_in_the_docstring() -> None:
    """The pauses are 80 s, 4, 12, 36 min, 1 h 48, 5 h 24, 16 h 12: one day in total."""
    pauses = [pause_after(tries, 0.5) for tries in range(1, TRIES + 1)]
    minutes = [None if pause is None else round(pause.total_seconds() / 60, 2) for pause in pauses]
    assert minutes == [1.33, 4, 12, 36, 108, 324, 972, None]
    assert timedelta(hours=24) < sum((p for p in pauses if p is not None), timedelta()) < timedelta(hours=25)


@given(st.integers(1, TRIES - 2), chances, chances)
def test_pauses_grow_with_any_jitter(tries: int, one: float, other: float) -> None:
    """Jitter spreads the tries; a later pause is never shorter than an earlier one."""
    first, second = pause_after(tries, one), pause_after(tries + 1, other)
    assert first is not None
    assert second is not None
    assert timedelta(0) < first < second


@given(st.integers(TRIES, 10_000), chances)
def test_tries_end(tries: int, chance: float) -> None:
    """After the last try there is no next one."""
    assert pause_after(tries, chance) is None


@given(st.integers(1, 100_000), chances)
def test_a_server_that_is_down_is_checked_at_least_once_a_minute(failures: int, chance: float) -> None:
    """After an outage of any length, mail is sent within a minute after the server is back."""
    assert timedelta(seconds=0.9) <= pause_while_down(failures, chance) <= timedelta(seconds=66)


def test_the_wait_for_a_recipient_ends_at_its_limit() -> None:
    """The pauses grow, the last one ends exactly at 72 hours, and their number is small."""
    age, pauses = timedelta(0), 0
    while (pause := pause_for_recipient(age)) is not None:
        assert pause > timedelta(0)
        age += pause
        pauses += 1
    assert age == UNKNOWN_RECIPIENT_LIMIT
    assert pauses < 60


@pytest.mark.parametrize("hours", [72, 73, 1000])
def test_after_the_limit_there_is_no_wait(hours: int) -> None:
    """The mail then fails."""
    assert pause_for_recipient(timedelta(hours=hours)) is None
