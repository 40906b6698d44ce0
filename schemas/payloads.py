"""A payload that `billing prune` has put into the archive (sinks/payloads/)."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.errors import ServiceUnavailable


class ArchiveAway(ServiceUnavailable):
    """The archive of payloads cannot be written or read now, or its address is not set."""


class PayloadLost(ArchiveAway):
    """The archive can be read, but this payload's file is missing or damaged."""


@dataclass(frozen=True, slots=True)
class KeptPayload:
    """Where the payload of an event is, and the key that reads it, for its ledger row."""

    event_id: str
    place: str
    key: bytes = field(repr=False)
