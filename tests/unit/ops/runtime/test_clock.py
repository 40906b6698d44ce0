"""The clock that only the demo can move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ops.runtime.clock import clock_from
from schemas.environment import CLOCK_OFFSET
from schemas.settings import InvalidSettings


@pytest.mark.parametrize(
    ("environment", "ahead"),
    [({}, 0), ({CLOCK_OFFSET: ""}, 0), ({CLOCK_OFFSET: "0"}, 0), ({CLOCK_OFFSET: "259200", "STATE_DIR": "/x"}, 3)],
)
def test_the_clock_is_ahead_by_the_configured_offset(environment: dict[str, str], ahead: int) -> None:
    before = datetime.now(UTC)
    now = clock_from(environment)()
    assert before <= now - timedelta(days=ahead) <= datetime.now(UTC)


def test_the_clock_can_move_only_in_a_local_system() -> None:
    for environment in ({CLOCK_OFFSET: "1"}, {CLOCK_OFFSET: "1", "STATE_DIR": ""}):
        with pytest.raises(InvalidSettings, match="only under `billing demo`"):
            clock_from(environment)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1e9"])
def test_a_non_numeric_offset_is_refused(value: str) -> None:
    with pytest.raises(InvalidSettings, match="number of seconds"):
        clock_from({CLOCK_OFFSET: value, "STATE_DIR": "/x"})
