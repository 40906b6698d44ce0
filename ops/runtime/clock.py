"""The clock that decides when timers are due. `billing demo` moves it, so that a month passes in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from schemas.environment import CLOCK_OFFSET
from schemas.settings import InvalidSettings

_MOST_S = 366 * 86_400.0


def clock_from(environment: Mapping[str, str]) -> Callable[[], datetime]:
    """Return a clock: the present time in UTC, plus the seconds in the environment variable CLOCK_OFFSET.

    Raises InvalidSettings if the value is not a number of seconds from 0 to 366 days, or if it is set outside a local
    system, where real customers would get mails too early.
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
