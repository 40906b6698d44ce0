"""Where a batch ends: the rows beside the state that one transaction writes. Times are UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from schemas.fast_row import value
from schemas.known import Known


@value(frozen=True, slots=True)
class LedgerRow:
    """One event and what came of it. `payload` is the JSON text as received, None where it is no JSON."""

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
    """Made with this verdict; the ledger adds them up."""
    applied_at: datetime | None
    payload: str | None


@value(frozen=True, slots=True, kw_only=True)
class EmailRow:
    """An e-mail to send; the columns that follow its sending are the dispatcher's."""

    email_key: str
    event_id: str
    account: str
    customer_id: str | None
    template: str
    recipient: str | None
    locale: str | None
    livemode: bool
    data: Mapping[str, Any]
    queued_at: datetime
    next_attempt_at: datetime


@value(frozen=True, slots=True, kw_only=True)
class StripeCallRow:
    """A call of Stripe's API to make; the columns that follow its making are the dispatcher's."""

    call_key: str
    event_id: str
    account: str
    customer_id: str | None
    livemode: bool
    method: str
    path: str
    params: Mapping[str, Any]
    purpose: str
    queued_at: datetime
    next_attempt_at: datetime


@value(frozen=True, slots=True, kw_only=True)
class DeadLetterRow:
    """Where a dead letter stands; the letter itself is in the topic. Its status is what operators made of it."""

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
    """The letter (topic/partition/offset) whose replay died again."""


@value(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """An export to make; the columns that follow its making are sinks/exports'."""

    export_key: str
    event_id: str
    account: str
    customer_id: str
    organization_id: str
    requested_at: datetime
    next_attempt_at: datetime
    expires_at: datetime


@value(frozen=True, slots=True, kw_only=True)
class ErasureRow:
    """An erasure to carry out and to note. `dead_letters_kept` is how long their topic keeps a letter."""

    event_id: str
    account: str
    customer_id: str
    organization_id: str
    asked_at: datetime
    erased_at: datetime
    kafka_until: datetime | None
    dead_letters_kept: timedelta | None


@dataclass(slots=True)
class Flush:
    """All that a batch writes: `known`'s changes and the rest."""

    known: Known
    ledger: list[LedgerRow] = field(default_factory=list)
    emails: list[EmailRow] = field(default_factory=list)
    calls: list[StripeCallRow] = field(default_factory=list)
    exports: list[ExportRow] = field(default_factory=list)
    dead_letters: list[DeadLetterRow] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)
    """Ids of events that were dead or waiting and are settled now: their letters are closed."""
    erasure: ErasureRow | None = None
    """Carried out last."""
