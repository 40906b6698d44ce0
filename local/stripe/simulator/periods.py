"""How long a period of a subscription or a discount is."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime


def add_interval(moment: int, interval: str, count: int = 1) -> int:
    """The same day of a later month, or the month's last."""
    at = datetime.fromtimestamp(moment, UTC)
    months = at.month - 1 + count * (12 if interval == "year" else 1)
    year, month = at.year + months // 12, months % 12 + 1
    day = min(at.day, calendar.monthrange(year, month)[1])
    return int(at.replace(year=year, month=month, day=day).timestamp())
