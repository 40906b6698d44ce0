"""A record of `billing.dead`: the original key, bytes and headers, and the reason why the event could not be applied.

The original headers keep their names. The added headers begin with `dead_`, so that a replay can remove them and get
the original record (behaviours.md D4, D6).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from schemas.record import Headers, writable

PREFIX = "dead_"
_TRACEBACK_BYTES = 16_384
"""Bytes kept of the end of a traceback. The last frames are the most useful, and a record has a size limit."""


_FRAME = re.compile(r'^  File "(?P<path>[^"\n]+)", line (?P<line>\d+), in (?P<name>.+)$', re.MULTILINE)
_LIBRARY = re.compile(
    r"^<|[/\\](?:(?:site|dist)-packages|lib(?:64)?[/\\]python3[.\d]*t?)[/\\]"
    r"(?!(?:streams|schemas|sinks|eventlog)[/\\]|(?:site|dist)-packages[/\\])"
)
"""A path of other people's code, or of code that is in no file. Installed from a wheel, our own is among the former."""

_PARTS, _LONGEST = 3, 200


def top_frame_of(traceback: str) -> str:
    """Returns the innermost frame of our own code, as `streams/rules/invoices.py:120 in on_paid`.

    The innermost frame of all, if there is no such frame; '' for a text without frames.
    """
    frames = list(_FRAME.finditer(traceback))
    if not frames:
        return ""
    own = [frame for frame in frames if _LIBRARY.search(frame["path"]) is None]
    frame = (own or frames)[-1]
    path = "/".join(re.split(r"[/\\]", frame["path"])[-_PARTS:])
    return f"{path}:{frame['line']} in {frame['name']}"[:_LONGEST]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """`stage` is `decode`, `decide` or `store`. Times are UTC. `attempts` counts the tries of this worker."""

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
        """Returns the original headers followed by the `dead_` headers."""
        return (*writable(self.headers), *self._added())

    def bare_headers(self) -> Headers:
        """Returns the `dead_` headers alone, with the size of the value that is left out because it is too large."""
        left_out = f"{len(self.value or b'')} bytes: see dead_topic, dead_partition and dead_offset"
        return (*self._added(), (PREFIX + "left_out", left_out.encode()))

    def _added(self) -> Headers:
        added = {
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
        return tuple((PREFIX + name, value.encode(errors="replace")) for name, value in added.items())


def original_headers(headers: Headers) -> Headers:
    """Returns the headers of the original record, without the `dead_` headers."""
    return tuple((name, value) for name, value in headers if not name.startswith(PREFIX))
