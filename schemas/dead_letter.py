"""A dead letter as it stands in `billing.dead`: the original key, bytes and headers, and why it could not be applied.

The original headers keep their names; ours are prefixed `dead_`, so that a replay strips what begins so and has the
record as it first was (behaviours.md D4, D6).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from schemas.record import Headers

PREFIX = "dead_"
_TRACEBACK_BYTES = 16_384
"""A traceback is cut at its head: the last frames say most, and a record has a size limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """`stage` is `decode`, `decide` or `store`; times are UTC; `attempts` counts this worker's tries on the record."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    event_id: str
    type: str
    stream: str
    account: str
    customer_id: str | None
    error_class: str
    message: str
    traceback: str
    stage: str
    attempts: int
    consumer_group: str
    topic: str
    partition: int
    offset: int
    first_failed_at: datetime
    last_failed_at: datetime
    code_version: str

    def encode_headers(self) -> Headers:
        """The original headers followed by ours."""
        ours = {
            "error_class": self.error_class,
            "message": self.message,
            "traceback": self.traceback[-_TRACEBACK_BYTES:],
            "stage": self.stage,
            "stream": self.stream,
            "attempts": str(self.attempts),
            "group": self.consumer_group,
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "first_failed_at": self.first_failed_at.isoformat(),
            "last_failed_at": self.last_failed_at.isoformat(),
            "code_version": self.code_version,
        }
        return (*self.headers, *((PREFIX + name, value.encode()) for name, value in ours.items()))


def original_headers(headers: Headers) -> Headers:
    """A dead letter's headers as the record had them before it died."""
    return tuple((name, value) for name, value in headers if not name.startswith(PREFIX))
