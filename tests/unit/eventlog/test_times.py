"""Times and durations that brokers refuse, or that Python cannot hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from eventlog.client import kept_for, millis_of
from eventlog.retention import longest_stay

LONGEST = 2**63 - 1
"""What people set for no limit: retention.ms is a 64-bit number."""


@pytest.mark.parametrize("year", [1, 1969, 1970, 2026, 9999])
def test_no_moment_is_a_negative_time_of_kafka(year: int) -> None:
    moment = datetime(year, 1, 1, tzinfo=UTC)
    assert millis_of(moment) == max(0, int(moment.timestamp()) * 1000)


@pytest.mark.parametrize(
    ("millis", "kept"),
    [(-1, None), (0, timedelta(0)), (86_400_000, timedelta(days=1)), (10**15, None), (LONGEST, None), (2**70, None)],
)
def test_a_retention_beyond_a_thousand_years_is_no_limit(millis: int, kept: timedelta | None) -> None:
    assert kept_for(millis) == kept
    assert longest_stay({"retention.ms": str(millis), "segment.ms": "0", "cleanup.policy": "delete"}) == kept
    assert kept is None or datetime.now(UTC) + kept


def test_the_longest_segment_does_not_end_a_worker() -> None:
    assert longest_stay({"retention.ms": "1", "segment.ms": str(LONGEST), "cleanup.policy": "delete"}) is None
