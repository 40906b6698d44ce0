"""A record to append to the log, and the headers of a record read from it."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import Message

from schemas.record import Headers


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to append to the log. The format is in schemas/record.py."""

    key: bytes | None
    value: bytes
    headers: Headers


def headers_of(message: Message) -> Headers:
    """Returns the headers of a record unchanged; a missing value becomes empty bytes."""
    pairs = message.headers() or []
    listed = pairs.items() if isinstance(pairs, dict) else pairs
    return tuple((name, value.encode() if isinstance(value, str) else value or b"") for name, value in listed)
