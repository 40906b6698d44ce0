"""Times in options and in what commands print, which can be given back as an option.

An option is a span before now (`90s`, `15m`, `24h`, `7d`), or ISO 8601, by default in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SPAN = re.compile(r"([0-9]{1,7})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span_of(text: str) -> timedelta:
    """Parse a span of time. Raises ValueError with a message for the user."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r:.40} is not a duration: write 90s, 15m, 24h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def moment_of(text: str, now: datetime) -> datetime:
    """Parse a time and return it in UTC. Raises ValueError with a message for the user."""
    try:
        if _SPAN.fullmatch(text):
            return now - span_of(text)
        moment = datetime.fromisoformat(text.removesuffix(" UTC"))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r:.40} is not a time: write 24h (ago), 7d (ago), or 2026-03-01T12:00") from None


def minute_text(moment: datetime) -> str:
    """Return the time as `2026-03-01 12:00 UTC`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def second_text(moment: datetime) -> str:
    """Return the time as `2026-03-01 12:00:59 UTC`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
