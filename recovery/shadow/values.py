"""Compares one value of the old system with one of this system. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0", ""}


def differs(field: str, theirs: str | None, ours: object, renamed: Mapping[str, str]) -> bool:
    """Returns whether the values differ. An empty text is no value; `renamed` maps the old system's values to ours."""
    text = (theirs or "").strip()
    text = renamed.get(text, text)
    match ours:
        case bool():
            return text.lower() not in (_TRUE if ours else _FALSE)
        case datetime():
            return _moment(text) != ours.astimezone(UTC).replace(microsecond=0)
        case None:
            return text != ""
        case str() if field == "email":
            return text.lower() != ours.strip().lower()
    return text != str(ours).strip()


def _moment(text: str) -> datetime | None:
    """Returns the time of an ISO 8601 text, by default in UTC, or of seconds since the epoch; None for another text."""
    try:
        if text.isdecimal():
            return datetime.fromtimestamp(int(text), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
