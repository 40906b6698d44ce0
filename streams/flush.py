"""Builds the rows that one transaction writes from the processed items."""

from __future__ import annotations

from datetime import datetime

from schemas.changes import changes_of
from schemas.fast_row import replace
from schemas.record import Source
from schemas.storable import bounded, bounded_or_none, reason_text
from schemas.verdict import Applied, Dead, Duplicate, Ignored, Stale, Verdict, Waiting, outcome_of
from sinks.postgres.outboxes import Origin
from sinks.postgres.rows import LedgerRow
from streams.decode import describe, has_no_nul
from streams.item import Attempt, Item, id_of
from streams.payload import as_stored, without_person

_SETTLED = (Applied, Stale, Ignored)
_WITH_REASON = (Applied, Stale, Dead, Waiting)
"""Tuples, because isinstance would build `X | Y` again for each event."""


def revived_id(item: Item) -> str | None:
    """The id of an event that was dead or waiting before and is settled now."""
    if item.earlier_outcome and item.decoded and isinstance(item.verdict, _SETTLED):
        return item.decoded.envelope.id
    return None


def barred_id(item: Item) -> str | None:
    """The id of an event that has waited with its payload, which the ledger must not keep any longer."""
    return id_of(item) if item.is_barred and item.earlier_outcome and not isinstance(item.verdict, Waiting) else None


def ledger_row(item: Item, attempt: Attempt, now: datetime, stream: str) -> LedgerRow | None:
    """Returns None for a duplicate and for a record without an id. `stream` is that of its type."""
    if item.verdict is None or isinstance(item.verdict, Duplicate):
        return None
    record, verdict = item.record, item.verdict
    envelope = item.decoded.envelope if item.decoded else describe(record.value)
    if envelope is None:
        return None
    customer_id = envelope.customer_id or item.customer_id
    return LedgerRow(
        event_id=envelope.id,
        type=envelope.type,
        stream=stream,
        customer_id=customer_id,
        account=envelope.account,
        livemode=envelope.livemode,
        created=envelope.created,
        received_at=record.received_at,
        source=Source.IMPORT if item.was_imported else bounded(record.headers.get("source", "")) or Source.STRIPE,
        api_version=envelope.api_version,
        endpoint=bounded_or_none(record.headers.get("endpoint")),
        partition=record.partition,
        offset=record.offset,
        outcome=outcome_of(verdict),
        reason=_reason(verdict),
        attempts=attempt.number,
        applied_at=now,
        payload=_payload(item),
        changes=None if item.is_barred or not item.written else changes_of(item.written, customer_id) or None,
    )


def _reason(verdict: Verdict | None) -> str | None:
    reason = verdict.reason if isinstance(verdict, _WITH_REASON) else None
    return reason_text(reason) if reason is not None else None


def bare_ledger_row(row: LedgerRow) -> LedgerRow:
    """Returns the row with its event id, place and outcome, and without every value that came from the event."""
    return replace(
        row,
        type="",
        customer_id=None,
        account="",
        created=None,
        received_at=None,
        api_version=None,
        endpoint=None,
        reason="the store refused the details of this event; its dead letter has the bytes",
        payload=None,
        changes=None,
    )


def _payload(item: Item) -> str | None:
    """The JSON as received, if the ledger can store it. A waiting event is read back from the ledger."""
    value = item.record.value
    if item.is_barred:
        return without_person(value) if isinstance(item.verdict, Waiting) and value is not None else None
    if value is None or (isinstance(item.verdict, Dead) and item.verdict.stage == "store"):
        return None  # the payload may be what the store refused; the dead letter has the bytes
    if item.decoded is None and not has_no_nul(value):
        return None
    return as_stored(value)


def origin_of(item: Item) -> Origin:
    """The event that orders a row of an outbox; without an id if the record could not be read."""
    envelope = item.decoded.envelope if item.decoded else None
    return Origin(envelope.id, envelope.livemode) if envelope else Origin("", livemode=False)
