"""One record on its way through the worker: what was read, decoded and decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from eventlog.dead_letters import RecordPosition
from schemas.effects import CallStripe, Erase, OrderExport, QueueEmail
from schemas.record import Record
from schemas.verdict import Verdict
from streams.decode import Decoded, describe


@dataclass(slots=True)
class Attempt:
    """What is known of the records that one `process` call has failed on before, so that a retry repeats no letter."""

    number: int = 1
    first_failed_at: dict[tuple[str, int, int], datetime] = field(default_factory=dict)
    published: dict[tuple[str, int, int], RecordPosition] = field(default_factory=dict)


@dataclass(slots=True)
class Item:
    """One record on its way to a verdict."""

    record: Record
    decoded: Decoded | None = None
    verdict: Verdict | None = None
    came_before: str | None = None
    """Its outcome in the ledger, `waiting` or `dead`; None if it is new there."""
    emails: list[QueueEmail] = field(default_factory=list)
    calls: list[CallStripe] = field(default_factory=list)
    exports: list[OrderExport] = field(default_factory=list)
    erase: Erase | None = None
    customer_id: str | None = None
    """Whose row it wrote."""

    @property
    def place(self) -> tuple[str, int, int]:
        return (self.record.topic, self.record.partition, self.record.offset)


def _is_unread(item: Item) -> bool:
    return item.decoded is None


def _id_of(item: Item) -> str | None:
    """Under which it stands in the ledger; None for what has no id to stand there under."""
    envelope = item.decoded.envelope if item.decoded else describe(item.record.value)
    return envelope.id if envelope else None
