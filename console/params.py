"""Reads filters and keyset places from URLs. A value that cannot be read is refused with its name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from console.errors import Refused

MOST_CHARACTERS = 300


def text(query: Mapping[str, str], name: str) -> str:
    """Returns a text parameter, '' if it is missing. Raises Refused if it is very long."""
    value = query.get(name, "").strip()
    if len(value) > MOST_CHARACTERS:
        raise Refused(f"{name} is longer than {MOST_CHARACTERS} characters")
    return value.replace("\0", "")


def time(query: Mapping[str, str], name: str) -> datetime | None:
    """Returns a time in UTC, None if it is missing. Takes `2026-11-27`, `2026-11-27T09:14`, with or without offset."""
    value = text(query, name)
    if not value:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise Refused(f"{name}: {value} is not a time such as 2026-11-27T09:14") from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def place(query: Mapping[str, str], name: str) -> tuple[datetime, str] | None:
    """Returns where a page of a list starts, `TIME~KEY`, None for the first page."""
    value = text(query, name)
    if not value:
        return None
    at, _, key = value.partition("~")
    try:
        return datetime.fromisoformat(at), key
    except ValueError:
        raise Refused(f"{name}: {value} is not a place in this list") from None


def place_text(at: datetime, key: str) -> str:
    """Returns a place as a parameter."""
    return f"{at.isoformat()}~{key}"


def whole(query: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    """Returns a whole number within its limits. Raises Refused."""
    value = text(query, name)
    if not value:
        return default
    if not value.isdecimal() or not least <= int(value) <= most:
        raise Refused(f"{name} is a number from {least} to {most}")
    return int(value)
