"""The tables of outboxes (sinks/postgres/outboxes.py), and what the dispatcher stores beside them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Column, Index, Table
from sqlalchemy import text as sql
from sqlalchemy.schema import SchemaItem

from sinks.postgres.columns import count, flag, json, one_of, text, time
from sinks.postgres.tables.metadata import metadata

# `suppressed`: ordered while `billing rebuild` applied the log again (recovery/rebuild). Never delivered.
# `withheld`: not delivered on purpose; `last_error` has the reason (sinks/outbox/truth.py).
EMAIL_STATUSES = ("queued", "sending", "sent", "failed", "suppressed", "withheld")
CALL_STATUSES = ("queued", "calling", "done", "failed", "suppressed", "withheld")
NOTIFICATION_STATUSES = ("queued", "sending", "sent", "failed", "suppressed", "withheld")
EXPORT_STATUSES = ("queued", "working", "done", "failed", "expired", "deleted", "suppressed", "withheld")

HELD = "shadow: it would have left"
"""The `last_error` of a row that shadow mode held (sinks/postgres/shadow.py)."""


def delivery(
    name: str,
    statuses: Sequence[str],
    *,
    queued: str = "queued_at",
    done: str = "sent_at",
    due: Sequence[str] | None = None,
) -> list[SchemaItem]:
    """The columns and indexes by which the dispatcher claims, retries and lists the rows of one outbox.

    `queued` and `done` name its columns of these times. `due` are the statuses that can be claimed, by default the
    first two.
    """
    claimed = ", ".join(f"'{status}'" for status in due or statuses[:2])
    return [
        text("status", default=statuses[0]),
        count("attempts"),
        time(queued, null=False),
        time("next_attempt_at", null=False),
        text("claimed_by"),
        time(done),
        text("last_error"),
        Index(f"{name}_due", "next_attempt_at", postgresql_where=sql(f"status in ({claimed})")),
        Index(f"{name}_event", "event_id"),
        Index(f"{name}_{queued.removesuffix('_at')}", queued),
        Index(f"{name}_failed", queued, postgresql_where=sql("status = 'failed'")),
        Index(f"{name}_held", queued, postgresql_where=sql(f"status = 'withheld' AND last_error = '{HELD}'")),
        one_of("status", *statuses),
    ]


# The e-mail outbox. If `recipient` is null, the customer's address at the time of sending is used.
emails = Table(
    "emails",
    metadata,
    text("email_key", key=True),
    text("event_id", null=False),
    text("account", default=""),
    text("customer_id"),
    text("template", null=False),
    text("recipient"),
    text("locale"),
    flag("livemode"),
    json("data"),
    text("message_id"),
    *delivery("emails", EMAIL_STATUSES),
    Index("emails_customer", "account", "customer_id"),
    Index("emails_withheld", "queued_at", postgresql_where=sql("status = 'withheld'")),
    Index(
        "emails_with_data",
        "queued_at",
        postgresql_where=sql("data <> '{}' AND status NOT IN ('queued', 'sending')"),
    ),
    Index("emails_message", "message_id", postgresql_where=sql("message_id IS NOT NULL")),
)

# The outbox of calls to Stripe's API. `call_key` is also the idempotency key.
stripe_calls = Table(
    "stripe_calls",
    metadata,
    text("call_key", key=True),
    text("event_id", null=False),
    text("account", default=""),
    text("customer_id"),
    flag("livemode"),
    text("method", null=False),
    text("path", null=False),
    json("params"),
    text("purpose", default=""),
    *delivery("stripe_calls", CALL_STATUSES, done="done_at"),
    Index("stripe_calls_customer", "account", "customer_id"),
    Index(
        "stripe_calls_with_params",
        "queued_at",
        postgresql_where=sql("params <> '{}' AND status IN ('done', 'withheld', 'suppressed')"),
    ),
)

# Archives of all data on a customer (behaviours.md B6), see sinks/exports/orders.py. `location` is where the archive is
# stored or being written, under BILLING_EXPORTS_URL. It is null before the first claim and when no archive is left.
exports = Table(
    "exports",
    metadata,
    text("export_key", key=True),
    text("event_id", null=False),
    text("account", default=""),
    text("customer_id", null=False),
    text("organization_id", null=False),
    time("expires_at", null=False),
    text("location"),
    Column("bytes", BigInteger),
    text("sha256"),
    Index("exports_customer", "account", "customer_id"),
    *delivery(
        "exports",
        EXPORT_STATUSES,
        queued="requested_at",
        done="done_at",
        due=("queued", "working", "done", "expired"),
    ),
)

# The outbox of notifications to the customer's application (behaviours.md F3). A trigger sets `version`: it grows with
# each change of a customer, and is the same for all destinations of one change (revision 0022).
notifications = Table(
    "notifications",
    metadata,
    text("notification_key", key=True),
    text("event_id", null=False),
    text("account", default=""),
    text("customer_id"),
    text("destination", null=False),
    text("message_id", null=False),
    text("type", null=False),
    flag("livemode"),
    Column("version", BigInteger, nullable=False, server_default=sql("0")),
    time("occurred_at", null=False),
    json("data"),
    *delivery("notifications", NOTIFICATION_STATUSES),
    Index(
        "notifications_open",
        "destination",
        "account",
        "customer_id",
        postgresql_where=sql("status in ('queued', 'sending')"),
    ),
    Index("notifications_customer", "account", "customer_id", "version"),
    Index(
        "notifications_with_data",
        "queued_at",
        postgresql_where=sql("data <> '{}' AND status NOT IN ('queued', 'sending', 'failed')"),
    ),
)

# The receivers of notifications that have failed: since when, and whether they are disabled (sinks/feed/receivers.py).
feed_destinations = Table(
    "feed_destinations",
    metadata,
    text("destination", key=True),
    time("failing_since"),
    time("disabled_at"),
    text("reason"),
)

# What the other side of an outbox does not do at present, per dispatcher that sees it (sinks/outbox/outages.py).
outages = Table(
    "outages",
    metadata,
    text("outbox", key=True),
    text("dispatcher", key=True),
    text("address", null=False),
    text("reason", null=False),
    time("since", null=False),
    time("seen_at", null=False),
)

# Unsubscribes: one row per customer and optional template.
unsubscribed = Table(
    "unsubscribed",
    metadata,
    text("account", key=True),
    text("customer_id", key=True),
    text("template", key=True),
    time("at", null=False),
)
