"""One record of `billing.events` as the worker reads it, free of Faust's types."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.fast_row import value
from schemas.record import Headers, decode_headers


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
