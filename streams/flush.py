"""Builds the rows that one transaction writes from the processed items."""

from __future__ import annotations

from datetime import datetime

from schemas.effects import CallStripe, OrderExport, QueueEmail
from schemas.state import Organization
from schemas.verdict import Applied, Dead, Duplicate, Ignored, Stale, Waiting, outcome_of
from sinks.postgres.rows import EmailRow, ExportRow, LedgerRow, StripeCallRow
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


def _email_row(email: QueueEmail, item: Item, now: datetime) -> EmailRow:
    event_id, livemode = _origin(item)
    return EmailRow(
        email_key=email.key,
        event_id=event_id,
        account=email.account,
        customer_id=email.customer_id,
        template=email.template,
        recipient=email.recipient,
        locale=email.locale,
        livemode=livemode,
        data=email.data,
        queued_at=now,
        next_attempt_at=now,
    )


def _call_row(call: CallStripe, item: Item, now: datetime) -> StripeCallRow:
    event_id, livemode = _origin(item)
    return StripeCallRow(
        call_key=call.key,
        event_id=event_id,
        account=call.account,
        customer_id=call.customer_id,
        livemode=livemode,
        method=call.method,
        path=call.path,
        params=call.params,
        purpose=call.purpose,
        queued_at=now,
        next_attempt_at=now,
    )


def _export_row(order: OrderExport, item: Item, now: datetime) -> ExportRow:
    return ExportRow(
        export_key=order.key,
        event_id=_origin(item)[0],
        account=order.account,
        customer_id=order.customer_id,
        organization_id=Organization.id_of(order.account, order.customer_id),
        requested_at=now,
        next_attempt_at=now,
        expires_at=order.keep_until,
    )


def _origin(item: Item) -> tuple[str, bool]:
    envelope = item.decoded.envelope if item.decoded else None
    return (envelope.id, envelope.livemode) if envelope else ("", False)
