"""The effects that rules order: frozen values that `streams/process.py` applies in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from schemas.fast_row import value
from schemas.state import (
    Customer,
    Dispute,
    Membership,
    Organization,
    Payment,
    PaymentLink,
    PaymentMethod,
    Subscription,
    User,
)

SavedRow = Customer | Organization | User | Membership | Subscription | PaymentLink | Payment | PaymentMethod | Dispute
"""The rows that rules save. Timers are not among them: StartTimer, CancelTimers and FinishTimer change those."""


@value(frozen=True, slots=True)
class Save:
    """Stores the row: a new one, or the new version of the stored row with the same key."""

    row: SavedRow


@dataclass(frozen=True, slots=True)
class Remove:
    """Deletes the stored row with this key: a membership that ended, or a payment's row that another one contains."""

    row: Membership | Payment


@value(frozen=True, slots=True, kw_only=True)
class QueueEmail:
    """Queues one e-mail. `key` is unique without a time limit: a second order with the same key has no effect.

    `recipient` None means the customer's address, read when the mail is sent (it may become known only by then).
    `data` is JSON for the template: times as ISO 8601 UTC, money as {"amount": minor units, "currency": "eur"}.
    """

    key: str
    template: str
    account: str
    customer_id: str | None
    recipient: str | None = None
    locale: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimer:
    """Sets a timer, or moves an open one. A timer that is done or cancelled does not change.

    Open means pending, or fired and not yet processed: then its event is on the log and finds that the timer was moved.
    """

    key: str
    account: str
    customer_id: str
    kind: str
    subject: str
    due_at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTimers:
    """Cancels the customer's open timers of these kinds and this subject ('' means any subject)."""

    account: str
    customer_id: str
    kinds: tuple[str, ...]
    subject: str = ""


@dataclass(frozen=True, slots=True)
class FinishTimer:
    """Marks a fired timer as done, whether or not there was something to do. A cancelled timer stays cancelled."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStripe:
    """Queues one call of Stripe's API. The dispatcher makes it later, with `key` as its idempotency key."""

    key: str
    method: str
    """`GET` or `POST`."""
    path: str
    """`/v1/subscriptions/sub_…`"""
    account: str
    customer_id: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    purpose: str = ""
    """The reason shown to people: one of PURPOSES."""


SETTLE_A_TIE = "settle a tie"
SET_DEFAULT_METHOD = "set the default payment method"
FIND_RECIPIENT = "find the recipient of a mail"
"""Ordered by the mail dispatcher if events have only named the customer, so that no e-mail address is stored."""
PURPOSES = (SETTLE_A_TIE, SET_DEFAULT_METHOD, FIND_RECIPIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderExport:
    """Orders an archive of everything stored about the customer and their organization. The dispatcher builds it once.

    `key` is the id in its link (schemas/export_link.py). The archive is deleted at `keep_until`.
    """

    key: str
    account: str
    customer_id: str
    keep_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNotification:
    """Queues one change for one destination of the feed (behaviours.md F3). streams/feed.py orders it, not a rule.

    `message_id` is that of the change, the same for every destination. `data` is JSON without personal data.
    """

    key: str
    destination: str
    message_id: str
    type: str
    account: str
    customer_id: str | None
    occurred_at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """A notification of a plugin's kind. streams/feed.py addresses it to the destinations that want this type.

    `subject` is the id of what has changed. With `once`, equal announcements of several events are one. `data` is JSON
    without personal data.
    """

    type: str
    account: str
    customer_id: str | None
    subject: str
    data: Mapping[str, Any] = field(default_factory=dict)
    once: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erase:
    """Erases the customer's personal data in every table and cancels everything pending for them.

    The rule itself saves the rows it can read without personal data; this effect erases the tables that rules do not
    read. It ends its transaction: it erases what earlier events stored, and nothing that later events store.
    """

    account: str
    customer_id: str
    asked_at: datetime
    """When the erasure was requested, or the customer left."""
    by: str | None = None
    """The operator who requested it (`billing erase`); None if the customer has left."""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class NoteStale:
    """Sets the verdict to `stale`: the event is older than the stored row. Its other effects still apply."""

    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """Adds a remark to the ledger row of an applied event: something in the event could not be used."""

    remark: str


Order = QueueEmail | CallStripe | OrderExport | QueueNotification
"""The effects that queue a row in an outbox. Each outbox declares its own (sinks/postgres/outboxes.py)."""

Effect = Save | Remove | StartTimer | CancelTimers | FinishTimer | Order | Erase | NoteStale | Note | Announce
