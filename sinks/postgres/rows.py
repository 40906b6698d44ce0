"""Rows that a batch's transaction writes in addition to the state rows. Times are UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from schemas.fast_row import value
from schemas.known import Known
from schemas.state import Customer
from sinks.postgres.outboxes import OutboxRow


@value(frozen=True, slots=True)
class LedgerRow:
    """One event and its outcome. `payload` is the JSON text as received, or None if it is not valid JSON."""

    event_id: str
    type: str
    stream: str
    customer_id: str | None
    account: str
    livemode: bool
    created: datetime | None
    received_at: datetime | None
    source: str
    api_version: str | None
    endpoint: str | None
    partition: int | None
    offset: int | None
    outcome: str
    reason: str | None
    attempts: int
    """Number of attempts that led to this verdict. The ledger adds it to the number already stored."""
    applied_at: datetime | None
    payload: str | None
    changes: Sequence[Mapping[str, Any]] | None = None
    """What the event changed (schemas/changes.py); None if it changed nothing."""


@value(frozen=True, slots=True, kw_only=True)
class DeadLetterRow:
    """The index entry of a dead letter; the letter itself is in the topic. Operators and replays change its status.

    The worker marks it resolved when the event is settled.
    """

    consumer_group: str
    topic: str
    partition: int
    offset: int
    event_id: str | None
    type: str | None
    stream: str | None
    account: str
    customer_id: str | None
    stage: str
    error_class: str
    message: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    code_version: str
    dead_partition: int | None = None
    dead_offset: int | None = None
    replay_of: str | None = None
    """The dead letter (topic/partition/offset) that was replayed, if this event died again after a replay."""
    top_frame: str = ""
    """The frame that raised the error, '' for an error that has no traceback because its message says all."""


@value(frozen=True, slots=True, kw_only=True)
class ErasureRow:
    """An erasure to carry out and to record. `dead_letters_kept` is how long the dead-letter topic keeps a record."""

    event_id: str
    account: str
    customer_id: str
    organization_id: str
    asked_at: datetime
    erased_at: datetime
    kafka_until: datetime | None
    dead_letters_kept: timedelta | None
    by: str | None = None
    """The operator who requested it, for the audit log; None if the customer has left."""
    reason: str | None = None


@value(frozen=True, slots=True, kw_only=True)
class EventObjectRow:
    """An object, or the digest of a guest's address, that an event without a customer names."""

    account: str
    stripe_id: str
    event_id: str


@value(frozen=True, slots=True, kw_only=True)
class ObjectOwnerRow:
    """Whose an object is. Written for events whose payload is not kept."""

    account: str
    stripe_id: str
    customer_id: str


@dataclass(frozen=True, slots=True)
class Erased:
    """The owners of Stripe objects and the customers who were erased, by (account, id)."""

    owners: Mapping[tuple[str, str], str]
    """The customer id of a payment or a card."""
    customers: Mapping[tuple[str, str], Customer]
    """Only customers who were erased, whether or not they have returned; only the columns about that are set."""


@dataclass(slots=True)
class Flush:
    """Everything that a batch writes: the changed rows of `known` and the rows in the lists."""

    known: Known
    ledger: list[LedgerRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    """Rows of all outboxes (sinks/postgres/outboxes.py)."""
    dead_letters: list[DeadLetterRow] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)
    """Ids of events that were dead or waiting and are settled now. The store marks their dead letters resolved."""
    reached: dict[str, dict[int, int]] = field(default_factory=dict)
    """The next offset to apply, by topic and partition."""
    reread: list[str] = field(default_factory=list)
    """Ids of events that may have been applied before the database was restored. Their mails are withheld."""
    group: str = ""
    objects: list[EventObjectRow] = field(default_factory=list)
    owners: list[ObjectOwnerRow] = field(default_factory=list)
    """Objects of erased customers. What events that name only the object have stored is erased at `owners_at`."""
    owners_at: datetime | None = None
    barred: list[str] = field(default_factory=list)
    """Ids of events that waited and must not keep their payload, because their customer is erased."""
    erasure: ErasureRow | None = None
    """The store carries it out last."""
