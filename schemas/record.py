"""The format of the records of `billing.events`, for all producers and consumers (behaviours.md A4).

key = the ordering key (UTF-8, schemas/ordering.py), value = the exact bytes of Stripe's body,
headers = the fields of `RecordHeaders`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

from schemas.fast_row import value
from schemas.trace_context import TRACEPARENT

MAX_RECORD_BYTES = 2 * 1024 * 1024
"""Maximum bytes of a record of the events topic, for its producers and the topic. Bodies have at most half of that."""

MAX_DEAD_LETTER_BYTES = 4 * 1024 * 1024
"""Maximum bytes of a record of the dead-letter topic: an event with its traceback."""


class Source(StrEnum):
    """How a record got onto the log."""

    STRIPE = "stripe"
    REPLAY = "replay"
    RECONCILE = "reconcile"
    TIMER = "timer"
    OPERATOR = "operator"
    """An operator's command made the event, as `billing plans apply`."""
    IMPORT = "import"
    """`billing import` read the object: it happened before this system took over (streams/withholding.py)."""


IMPORT_PREFIX = "imp"
"""The first part of the event ids that `billing import` makes. A replay keeps the id, not the source."""


Headers = tuple[tuple[str, bytes], ...]


def writable(headers: Headers) -> Headers:
    """Returns the headers of a foreign producer's record so that they can be written again.

    A name with U+0000, or with half a character, is one that librdkafka does not take. That part is replaced.
    """
    if all(name.isprintable() for name, _ in headers):
        return headers
    return tuple((name.replace("\0", "\ufffd").encode("utf-8", "replace").decode(), text) for name, text in headers)


@value(frozen=True, slots=True)
class RecordHeaders:
    """The headers of each record of `billing.events`. Text is UTF-8; an empty string means none.

    `received_at` is the time at which the gateway had the whole body, with a time zone. On the log it is UTC, in
    ISO 8601 with microseconds. `traceparent` is there only if the gateway traces (schemas/trace_context.py).
    """

    event_id: str
    type: str
    source: Source
    account: str
    livemode: bool
    api_version: str
    endpoint: str
    received_at: datetime
    traceparent: str = ""

    def encode(self) -> Headers:
        return (
            ("event_id", self.event_id.encode()),
            ("type", self.type.encode()),
            ("source", self.source.encode()),
            ("account", self.account.encode()),
            ("livemode", b"true" if self.livemode else b"false"),
            ("api_version", self.api_version.encode()),
            ("endpoint", self.endpoint.encode()),
            ("received_at", self.received_at.astimezone(UTC).isoformat(timespec="microseconds").encode()),
            *(((TRACEPARENT, self.traceparent.encode()),) if self.traceparent else ()),
        )


def decode_headers(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Returns the headers as text by name. Invalid UTF-8 is replaced, because headers only describe the record."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in headers}


@value(frozen=True, slots=True)
class Record:
    """A record read from the log. `timestamp` is Kafka's, in seconds since the epoch. `raw_headers` are unchanged."""

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
        """When the gateway received it, else Kafka's timestamp (UTC); 1970 if neither is a time."""
        try:
            return datetime.fromisoformat(self.headers["received_at"]).astimezone(UTC)
        except (KeyError, ValueError, OverflowError):
            pass  # another producer's header
        try:
            return datetime.fromtimestamp(self.timestamp, UTC)
        except (ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(0, UTC)


def record_of(
    topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, headers: Headers, timestamp: float
) -> Record:
    return Record(topic, partition, offset, key, value, headers, decode_headers(headers), timestamp)
