"""Dead letters of the worker: the verdict on an error, the letter for the topic, and its row in the index."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from eventlog.dead_letters import RecordPosition
from schemas.dead_letter import DeadLetter, top_frame_of
from schemas.errors import Poison, Unforeseen
from schemas.fast_row import replace
from schemas.record import Record
from schemas.storable import bounded, bounded_or_none, reason_text, traceback_text
from schemas.verdict import Dead
from sinks.postgres.rows import DeadLetterRow
from streams.decode import describe


class DeadLetters(Protocol):
    """Where letters are published (eventlog/dead_letters.py)."""

    async def publish(self, letter: DeadLetter) -> RecordPosition:
        """Returns the letter's position once it is stored. Raises LogUnavailable."""
        ...


class NoDeadLetters:
    """Publishes nothing: a rebuild's letters are on the topic already, and a rehearsal only shows its own."""

    async def publish(self, letter: DeadLetter) -> RecordPosition:  # noqa: ARG002  # the signature of `DeadLetters`
        return RecordPosition(-1, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """When and how often a record failed. Times are UTC."""

    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime


def dead(error: Exception, stage: str) -> Dead:
    """Returns the verdict on an error. An error other than Poison is named Unforeseen and keeps its traceback."""
    if isinstance(error, Poison):
        return Dead(type(error).__name__, reason_text(str(error)), stage)
    reason = reason_text(f"{type(error).__name__}: {error}")
    return Dead(Unforeseen.__name__, reason, stage, traceback_text("".join(traceback.format_exception(error))))


def type_of(record: Record) -> str:
    """Returns the event type of a record that may be unreadable: from its bytes, else from its header, else ''."""
    envelope = describe(record.value)
    return envelope.type if envelope else bounded(record.headers.get("type", ""))


def event_id_of(record: Record) -> str:
    """Returns the event id of a record that may be unreadable: from its bytes, else from its header, else ''."""
    envelope = describe(record.value)
    return envelope.id if envelope else bounded(record.headers.get("event_id", ""))


def letter_of(
    record: Record, verdict: Dead, failure: Failure, *, stream: str, group: str, code_version: str
) -> DeadLetter:
    """Returns the letter: the record as it was received, and why it could not be applied."""
    envelope = describe(record.value)
    return DeadLetter(
        key=record.key,
        value=record.value,
        headers=record.raw_headers,
        event_id=event_id_of(record),
        type=type_of(record),
        stream=stream,
        account=envelope.account if envelope else bounded(record.headers.get("account", "")),
        customer_id=envelope.customer_id if envelope else None,
        error_class=verdict.error_class,
        message=verdict.reason,
        traceback=verdict.traceback,
        stage=verdict.stage,
        attempts=failure.attempts,
        consumer_group=group,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        first_failed_at=failure.first_failed_at,
        last_failed_at=failure.last_failed_at,
        code_version=code_version,
    )


def index_row(letter: DeadLetter, place: RecordPosition, record: Record) -> DeadLetterRow:
    """Returns the letter's row in `billing.dead_letters`."""
    return DeadLetterRow(
        consumer_group=letter.consumer_group,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        event_id=letter.event_id or None,
        type=letter.type or None,
        stream=letter.stream,
        account=letter.account,
        customer_id=letter.customer_id,
        stage=letter.stage,
        error_class=letter.error_class,
        message=letter.message,
        attempts=letter.attempts,
        first_failed_at=letter.first_failed_at,
        last_failed_at=letter.last_failed_at,
        code_version=letter.code_version,
        dead_partition=place.partition,
        dead_offset=place.offset,
        replay_of=bounded_or_none(record.headers.get("replay_of")),
        top_frame=bounded(top_frame_of(letter.traceback)),
    )


def bare_index_row(row: DeadLetterRow) -> DeadLetterRow:
    """Returns the row with its event id and places, and without every other value that came from the event."""
    return replace(
        row,
        type=None,
        stream=None,
        account="",
        customer_id=None,
        message="the store refused the details of this event; its dead letter has the bytes",
        replay_of=None,
    )
