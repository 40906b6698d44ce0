"""The state of one record while the worker processes it: read, decoded, decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from eventlog.dead_letters import RecordPosition
from schemas.effects import Erase, Order
from schemas.errors import WrongMode
from schemas.record import Record
from schemas.references import References
from schemas.state import Row
from schemas.verdict import Dead, Duplicate, Verdict
from streams.brake import Judged
from streams.decode import Decoded, EventSummary, describe


@dataclass(slots=True)
class Attempt:
    """State of one `process` call across its retries, so that no retry publishes a dead letter twice."""

    number: int = 1
    first_failed_at: dict[tuple[str, int, int], datetime] = field(default_factory=dict)
    ends: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """By (topic, partition): the last offset to process, and the end of its chunk, with records that are left out."""
    published: dict[tuple[str, int, int], RecordPosition] = field(default_factory=dict)


@dataclass(slots=True)
class Item:
    """One record, its verdict and the effects to write."""

    record: Record
    decoded: Decoded | None = None
    verdict: Verdict | None = None
    references: References = field(default_factory=References)
    """The rows that the event's rule may use."""
    earlier_outcome: str | None = None
    """The outcome in the ledger, `waiting` or `dead`; None if the event is not in the ledger."""
    was_imported: bool = False
    """Whether the ledger has it from `billing import`, whatever has appended it again (streams/withholding.py)."""
    imported_at: datetime | None = None
    """When the import read it (UTC), according to the ledger."""
    orders: list[Order] = field(default_factory=list)
    """Rows to queue in the outboxes."""
    erase: Erase | None = None
    written: list[tuple[Row | None, Row | None]] = field(default_factory=list)
    """Each row that the event wrote, before and after."""
    customer_id: str | None = None
    """The customer id of the first row it wrote (`EventOutcome.customer_id`), or of a stored object that it names."""
    is_barred: bool = False
    """Whether the ledger must not keep the payload: it belongs to a customer who is erased (behaviours.md B6)."""

    @property
    def place(self) -> tuple[str, int, int]:
        return (self.record.topic, self.record.partition, self.record.offset)


def is_unread(item: Item) -> bool:
    """Whether the record holds no event that can be decoded."""
    return item.decoded is None


def id_of(item: Item) -> str | None:
    """The event id used in the ledger; None if the record has no readable id."""
    envelope = summary_of(item)
    return envelope.id if envelope else None


def summary_of(item: Item) -> EventSummary | None:
    return item.decoded.envelope if item.decoded else describe(item.record.value)


def judged_for_brake(items: Sequence[Item]) -> list[Judged]:
    """The verdicts in their order. A failed replay and an event of the other mode count as duplicates: they do not
    indicate a broken deploy."""
    return [
        Judged(Duplicate() if _is_no_evidence(item) else item.verdict, _account_of(item))
        for item in items
        if item.verdict is not None
    ]


def _is_no_evidence(item: Item) -> bool:
    verdict = item.verdict
    return isinstance(verdict, Dead) and (item.earlier_outcome == "dead" or verdict.error_class == WrongMode.__name__)


def _account_of(item: Item) -> str:
    envelope = summary_of(item)
    return envelope.account if envelope else item.record.headers.get("account", "")
