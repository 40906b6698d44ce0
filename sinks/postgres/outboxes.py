"""The registry of outboxes: rows that a batch's transaction queues, and that a dispatcher delivers to another system.

The times of a row are UTC. The dispatcher writes the columns that its class does not have.

Everything that handles outboxes loops over OUTBOXES: the store, the rebuild and its comparison, erasure, personal data,
claims, operators' queries and the tests' oracle. tests/contract/sinks/postgres/test_outboxes.py checks that each table
with the status `suppressed` is declared here, and that nothing which an outbox needs is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table

from schemas.effects import FIND_RECIPIENT, CallStripe, OrderExport, QueueEmail, QueueNotification
from schemas.fast_row import value
from schemas.state import Organization
from sinks.postgres.tables import outboxes as tables

TIMERS_CHANNEL = "billing_timers"
"""The NOTIFY channel of due timers. Timers are not an outbox: they return to the log."""

ERASED = "erased"
"""Replaces a reason or an error in an erased row."""


def can_be_requeued(row: Mapping[str, Any]) -> bool:
    """Returns whether a row of an outbox has failed and still has what has to be delivered."""
    return bool(row["status"] == "failed" and row["last_error"] != ERASED)


@dataclass(frozen=True, slots=True)
class Origin:
    """The event that ordered a row. `event_id` is '' if the record has no readable event."""

    event_id: str
    livemode: bool


@value(frozen=True, slots=True, kw_only=True)
class EmailRow:
    """An e-mail to send. The dispatcher writes the columns about its delivery."""

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
    status: str = "queued"
    last_error: str | None = None


@value(frozen=True, slots=True, kw_only=True)
class StripeCallRow:
    """A call of Stripe's API to make. The dispatcher writes the columns about its result."""

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
    status: str = "queued"
    last_error: str | None = None


@value(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """An export to make. sinks/exports writes the columns about its result."""

    export_key: str
    event_id: str
    account: str
    customer_id: str
    organization_id: str
    requested_at: datetime
    next_attempt_at: datetime
    expires_at: datetime
    status: str = "queued"
    last_error: str | None = None


@value(frozen=True, slots=True, kw_only=True)
class NotificationRow:
    """A change to send to one destination. Postgres sets its version, the dispatcher the columns about its delivery."""

    notification_key: str
    event_id: str
    account: str
    customer_id: str | None
    destination: str
    message_id: str
    type: str
    livemode: bool
    occurred_at: datetime
    data: Mapping[str, Any]
    queued_at: datetime
    next_attempt_at: datetime
    status: str = "queued"
    last_error: str | None = None


OutboxRow = EmailRow | StripeCallRow | ExportRow | NotificationRow


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outbox:
    """One outbox. SQL fragments contain constants only; they name the table as `t`."""

    table: Table
    effect: type[Any]
    """The effect by which a rule orders a row (schemas/effects.py)."""
    row_type: type[Any]
    to_row: Callable[[Any, Origin, datetime], Any]
    """Returns the row of an effect, queued at the given time (UTC)."""
    busy: str
    """The status of a claimed row."""
    done: str
    """The status of a delivered row."""
    claims: str
    """The subclass of sinks.outbox.claims.Claims that claims its rows, as `module:name`: it is above this module."""
    channel: str
    """The NOTIFY channel, notified when rows are queued."""
    kind: str | None
    """The column by which operators filter rows and metrics count them."""
    since: str = "queued_at"
    """The column with the time of queueing."""
    command: str
    """`billing COMMAND ls|requeue`."""
    metrics: str
    """The first part of the names of its metrics."""
    shown: tuple[str, ...]
    """The columns that `billing event` and `billing customer` print."""
    not_compared: frozenset[str]
    """Columns that the comparison with a rebuilt database leaves out: the dispatcher and operators write them."""
    compared_if: str = "true"
    """Condition of the rows that the comparison reads."""
    erased: Mapping[str, str]
    """What an erasure sets, by column. $4 is the time of the erasure."""
    erased_if: str = "true"
    """An additional condition for the rows that an erasure changes."""

    @property
    def name(self) -> str:
        return str(self.table.name)

    @property
    def key(self) -> str:
        """The column of the key, which makes an order happen once."""
        (column,) = self.table.primary_key
        return str(column.name)


_CLOCK = frozenset({"claimed_by", "attempts", "queued_at", "next_attempt_at", "last_error", "status"})


def _closed(busy: str, cleared: Mapping[str, str]) -> dict[str, str]:
    """What clears an erased row. An open row becomes failed, so it is not delivered."""
    return {
        **cleared,
        "claimed_by": "NULL",
        "last_error": f"CASE WHEN t.status IN ('queued', '{busy}', 'failed', 'withheld') THEN '{ERASED}' END",
        "status": f"CASE WHEN t.status IN ('queued', '{busy}') THEN 'failed' ELSE t.status END",
    }


def _email_row(email: QueueEmail, origin: Origin, now: datetime) -> EmailRow:
    return EmailRow(
        email_key=email.key,
        event_id=origin.event_id,
        account=email.account,
        customer_id=email.customer_id,
        template=email.template,
        recipient=email.recipient,
        locale=email.locale,
        livemode=origin.livemode,
        data=email.data,
        queued_at=now,
        next_attempt_at=now,
    )


def _call_row(call: CallStripe, origin: Origin, now: datetime) -> StripeCallRow:
    return StripeCallRow(
        call_key=call.key,
        event_id=origin.event_id,
        account=call.account,
        customer_id=call.customer_id,
        livemode=origin.livemode,
        method=call.method,
        path=call.path,
        params=call.params,
        purpose=call.purpose,
        queued_at=now,
        next_attempt_at=now,
    )


def _export_row(order: OrderExport, origin: Origin, now: datetime) -> ExportRow:
    return ExportRow(
        export_key=order.key,
        event_id=origin.event_id,
        account=order.account,
        customer_id=order.customer_id,
        organization_id=Organization.id_of(order.account, order.customer_id),
        requested_at=now,
        next_attempt_at=now,
        expires_at=order.keep_until,
    )


def _notification_row(order: QueueNotification, origin: Origin, now: datetime) -> NotificationRow:
    return NotificationRow(
        notification_key=order.key,
        event_id=origin.event_id,
        account=order.account,
        customer_id=order.customer_id,
        destination=order.destination,
        message_id=order.message_id,
        type=order.type,
        livemode=origin.livemode,
        occurred_at=order.occurred_at,
        data=order.data,
        queued_at=now,
        next_attempt_at=now,
    )


EMAILS = Outbox(
    table=tables.emails,
    effect=QueueEmail,
    row_type=EmailRow,
    to_row=_email_row,
    busy="sending",
    done="sent",
    claims="sinks.email.outbox:MailOutbox",
    channel="billing_emails",
    kind="template",
    command="mail",
    metrics="billing_emails",
    shown=("template", "recipient", "status", "queued_at", "sent_at", "last_error"),
    not_compared=_CLOCK | {"sent_at", "message_id"},
    erased=_closed("sending", {"recipient": "NULL", "locale": "NULL", "data": "'{}'"}),
)
STRIPE_CALLS = Outbox(
    table=tables.stripe_calls,
    effect=CallStripe,
    row_type=StripeCallRow,
    to_row=_call_row,
    busy="calling",
    done="done",
    claims="sinks.stripe_calls.calls:Calls",
    channel="billing_stripe_calls",
    kind="purpose",
    command="calls",
    metrics="billing_stripe_calls",
    shown=("call_key", "method", "path", "purpose", "status", "attempts", "done_at", "last_error"),
    not_compared=_CLOCK | {"done_at"},
    compared_if=f"t.purpose <> '{FIND_RECIPIENT}'",  # queued by the mail dispatcher, not by an event
    erased=_closed("calling", {"params": "'{}'"}),
)
EXPORTS = Outbox(
    table=tables.exports,
    effect=OrderExport,
    row_type=ExportRow,
    to_row=_export_row,
    busy="working",
    done="done",
    claims="sinks.exports.orders:ExportOrders",
    channel="billing_exports",
    kind=None,
    since="requested_at",
    command="exports",
    metrics="billing_exports",
    shown=("export_key", "status", "attempts", "done_at", "expires_at", "last_error"),
    not_compared=_CLOCK - {"queued_at"} | {"requested_at", "done_at", "location", "bytes", "sha256"},
    # sinks/exports deletes the file. If it is still being written, that happens when the writer's claim has expired.
    erased={
        "status": "CASE WHEN t.location IS NULL THEN 'deleted' ELSE 'expired' END",
        "last_error": "NULL",
        "sha256": "NULL",
        "next_attempt_at": "CASE WHEN t.status = 'working' THEN t.next_attempt_at ELSE $4 END",
    },
    erased_if="t.status <> 'deleted'",
)

NOTIFICATIONS = Outbox(
    table=tables.notifications,
    effect=QueueNotification,
    row_type=NotificationRow,
    to_row=_notification_row,
    busy="sending",
    done="sent",
    claims="sinks.feed.notifications:Notifications",
    channel="billing_notifications",
    kind="type",
    command="feed",
    metrics="billing_feed",
    shown=("type", "destination", "version", "status", "attempts", "sent_at", "last_error"),
    not_compared=_CLOCK | {"version", "sent_at"},
    # They follow each change of state as it happened, to the destinations of that time. A rebuild applies a replayed
    # event at its first place and knows only the present destinations. The states themselves are compared.
    compared_if="false",
    erased=_closed("sending", {"data": "'{}'"}),
)

OUTBOXES: tuple[Outbox, ...] = (EMAILS, STRIPE_CALLS, EXPORTS, NOTIFICATIONS)
"""In the order in which a batch's transaction writes them."""

BY_EFFECT: Mapping[type[Any], Outbox] = {outbox.effect: outbox for outbox in OUTBOXES}
BY_ROW: Mapping[type[Any], Outbox] = {outbox.row_type: outbox for outbox in OUTBOXES}
BY_TABLE: Mapping[str, Outbox] = {outbox.name: outbox for outbox in OUTBOXES}
