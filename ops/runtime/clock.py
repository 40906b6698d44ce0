"""Beside the flow: the clock by which timers are due. `billing demo` moves it, so that a month is told in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from schemas.settings import CLOCK_OFFSET, InvalidSettings

_MOST_S = 366 * 86_400.0


def clock_from(environment: Mapping[str, str]) -> Callable[[], datetime]:
    """The present time, UTC, moved as the environment says.

    Raises InvalidSettings for what is no number of seconds within a year, and wherever something is moved in a process
    that is not a part of a local system: real customers get no mail before its time.
    """
    ahead = timedelta(seconds=_seconds(environment.get(CLOCK_OFFSET) or "0"))
    if ahead and not environment.get("STATE_DIR"):
        raise InvalidSettings(f"{CLOCK_OFFSET}: the clock can be moved only under `billing demo` and `billing up`")
    return lambda: datetime.now(UTC) + ahead


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _MOST_S:
        raise InvalidSettings(f"{CLOCK_OFFSET}: a number of seconds from 0 to {_MOST_S:.0f}")
    return seconds
