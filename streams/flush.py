"""Builds the rows that one transaction writes from the processed items."""

from __future__ import annotations

from datetime import datetime

from schemas.verdict import Applied, Dead, Duplicate, Ignored, Stale, Waiting, outcome_of
from sinks.postgres.outboxes import Origin
from sinks.postgres.rows import LedgerRow
from streams.decode import describe, is_storable
from streams.item import Attempt, Item
from streams.rules.registry import OTHER


def _revived(item: Item) -> str | None:
    """The id of an event that was dead or waiting before and is settled now."""
    if item.earlier_outcome and item.decoded and isinstance(item.verdict, Applied | Stale | Ignored):
        return item.decoded.envelope.id
    return None


def _ledger_row(item: Item, attempt: Attempt, now: datetime) -> LedgerRow | None:
    """Returns None for a duplicate and for a record without a readable id."""
    if item.verdict is None or isinstance(item.verdict, Duplicate):
        return None
    record, verdict = item.record, item.verdict
    envelope = item.decoded.envelope if item.decoded else describe(record.value)
    if envelope is None:
        return None
    rule = item.decoded.rule if item.decoded else None
    return LedgerRow(
        event_id=envelope.id,
        type=envelope.type,
        stream=rule.stream if rule else OTHER,
        customer_id=envelope.customer_id or item.customer_id,
        account=envelope.account,
        livemode=envelope.livemode,
        created=envelope.created,
        received_at=record.received_at,
        source=record.headers.get("source", "stripe"),
        api_version=envelope.api_version,
        endpoint=record.headers.get("endpoint") or None,
        partition=record.partition,
        offset=record.offset,
        outcome=outcome_of(verdict),
        reason=verdict.reason if isinstance(verdict, Stale | Dead | Waiting) else None,
        attempts=attempt.number,
        applied_at=now,
        payload=_payload(item),
    )


def _clean(header: str) -> str:
    """Removes U+0000 from a foreign producer's header, so that a text column can store it."""
    return header.replace("\0", "")


def _payload(item: Item) -> str | None:
    """The JSON as received, if the ledger can store it. A waiting event is read back from the ledger."""
    value = item.record.value
    if value is None or (isinstance(item.verdict, Dead) and item.verdict.stage == "store"):
        return None  # the payload may be what the store refused; the dead letter has the bytes
    return value.decode() if item.decoded is not None or is_storable(value) else None


def _origin(item: Item) -> Origin:
    envelope = item.decoded.envelope if item.decoded else None
    return Origin(envelope.id, envelope.livemode) if envelope else Origin("", livemode=False)
