"""The waiting room's timetable: pauses grow, and the last check is at the limit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import Event
from schemas.timer import retry_key
from streams.waiting import Stay, pause_after, retry_timer, stay_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMIT = timedelta(hours=72)


def _event() -> Event[None]:
    return Event(
        id="evt_1",
        type="charge.refunded",
        created=1,
        livemode=True,
        account="acct_1",
        customer_id=None,
        api_version=None,
        previous={},
        object=None,
    )


def test_the_timetable() -> None:
    seconds = [pause_after(look).total_seconds() for look in range(1, 9)]
    assert seconds == [30, 120, 600, 3600, 21_600, 43_200, 43_200, 43_200]


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_later_check_never_waits_less(one: int, other: int) -> None:
    assert pause_after(min(one, other)) <= pause_after(max(one, other))


@pytest.mark.parametrize(
    ("age_h", "until_h"), [(0, 12), (59, 71), (60, 72), (71, 72), (72, None), (100, None), (-5, 7)]
)
def test_the_last_check_is_at_the_limit(age_h: int, until_h: int | None) -> None:
    """If the clock jumps back, the event waits longer."""
    until = Stay(6, NOW).until(NOW + timedelta(hours=age_h), LIMIT)
    assert until == (None if until_h is None else NOW + timedelta(hours=until_h))


def test_a_zero_limit_means_no_waiting() -> None:
    assert Stay(1, NOW).until(NOW, timedelta(0)) is None


def test_the_timer_stores_start_and_number_of_checks() -> None:
    """An event without a customer waits too; its timer has no customer."""
    stay = stay_of(None, NOW)
    timer = retry_timer(_event(), stay, NOW + timedelta(seconds=30))

    assert stay == Stay(1, NOW)
    assert (timer.timer_key, timer.kind, timer.subject) == (retry_key("evt_1"), "retry", "evt_1")
    assert (timer.account, timer.customer_id, timer.livemode) == ("acct_1", "", True)
    assert stay_of(timer, NOW + timedelta(hours=1)) == Stay(2, NOW)
