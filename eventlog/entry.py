"""One record to append to the log, and its headers."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import Message

from schemas.record import Headers


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it is to stand on the log (schemas/record.py)."""

    key: bytes | None
    value: bytes
    headers: Headers


def headers_of(message: Message) -> Headers:
    """As they stand on the log."""
    pairs = message.headers() or []
    listed = pairs.items() if isinstance(pairs, dict) else pairs
    return tuple((name, value.encode() if isinstance(value, str) else value or b"") for name, value in listed)
