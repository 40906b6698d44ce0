"""Trace ids of events (W3C Trace Context, https://www.w3.org/TR/trace-context/).

The trace id follows from the event's id, so all processes put their spans into one trace, also those that do not have
the record at hand: an outbox row, a replay after days. The header `traceparent` adds which span a record came from.
"""

from __future__ import annotations

import hashlib
import re
import secrets

TRACEPARENT = "traceparent"

_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def trace_id_of(event_id: str) -> str:
    """Returns 32 hex digits, the same for each process and attempt of an event."""
    return hashlib.sha256(event_id.encode()).hexdigest()[:32]


def new_traceparent(event_id: str) -> str:
    """Returns the header of a record of the event, with a new span id."""
    return f"00-{trace_id_of(event_id)}-{secrets.token_hex(8)}-01"


def span_id_of(traceparent: object, event_id: str) -> str | None:
    """Returns the span id of the header; None if it is of another form or belongs to another event."""
    found = _FORM.fullmatch(traceparent) if isinstance(traceparent, str) else None
    return found[2] if found and found[1] == trace_id_of(event_id) and int(found[2], 16) else None
