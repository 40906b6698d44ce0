"""The log record of `billing.events` as every producer writes it and every consumer may rely on it (behaviours.md A4).

key = the ordering key (utf-8, schemas/ordering.py), value = the exact bytes of Stripe's body,
headers = the names below.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from schemas.fast_row import value

MAX_RECORD_BYTES = 2 * 1024 * 1024
"""Largest record of the events topic, for its producers and the topic itself. Bodies are at most half as large."""

MAX_DEAD_LETTER_BYTES = 4 * 1024 * 1024
"""Largest record of the dead-letter topic: an event and its traceback."""


class Source(StrEnum):
    """Through which door a record came."""

    STRIPE = "stripe"
    REPLAY = "replay"
    RECONCILE = "reconcile"
    TIMER = "timer"


Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class RecordHeaders:
    """The headers that each record of `billing.events` carries. Text is utf-8; '' stands for none.

    `received_at` is UTC, ISO 8601 with microseconds, when the gateway had the whole body.
    """

    event_id: str
    type: str
    source: Source
    account: str
    livemode: bool
    api_version: str
    endpoint: str
    received_at: str

    def encode(self) -> Headers:
        return (
            ("event_id", self.event_id.encode()),
            ("type", self.type.encode()),
            ("source", self.source.encode()),
            ("account", self.account.encode()),
            ("livemode", b"true" if self.livemode else b"false"),
            ("api_version", self.api_version.encode()),
            ("endpoint", self.endpoint.encode()),
            ("received_at", self.received_at.encode()),
        )


def decode_headers(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Headers as text by name; bytes that are not utf-8 are replaced, since a header only describes."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in headers}


@value(frozen=True, slots=True)
class Record:
    """`timestamp` is Kafka's, in seconds since the epoch; `raw_headers` are as they stand on the log."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    raw_headers: Headers
    headers: dict[str, str]
    timestamp: float

    @property
    def received_at(self) -> datetime:
        """When the gateway had it, else when Kafka had it (UTC)."""
        try:
            return datetime.fromisoformat(self.headers["received_at"]).astimezone(UTC)
        except (KeyError, ValueError):
            return datetime.fromtimestamp(self.timestamp, UTC)


def record_of(
    topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, headers: Headers, timestamp: float
) -> Record:
    return Record(topic, partition, offset, key, value, headers, decode_headers(headers), timestamp)
