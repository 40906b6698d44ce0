"""Defines the tables of schema `billing`. Other consumers rely on their names, keys and columns.

State tables have one column per field of schemas/state.py.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from schemas import state

metadata = MetaData(schema="billing")


def _text(name: str, *, key: bool = False, null: bool = True, default: str | None = None) -> Column[str]:
    nullable = null and not key and default is None
    return Column(
        name, Text, primary_key=key, nullable=nullable, server_default=None if default is None else text(f"'{default}'")
    )


def _time(name: str, *, null: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=null)


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=text("0"))


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def _json(name: str, *, null: bool = False) -> Column[object]:
    return Column(name, JSONB, nullable=null, server_default=None if null else text("'{}'"))


def _list(name: str) -> Column[object]:
    return Column(name, JSONB, nullable=False, server_default=text("'[]'"))


def _version(name: str) -> Column[str]:
    return _text(name, default="")


def _one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=f"{column}_known")


OUTCOMES = ("applied", "ignored", "stale", "waiting", "dead")
# `suppressed`: ordered while `billing rebuild` applied the log again (recovery/rebuild). Never delivered.
# `withheld`: not delivered on purpose; `last_error` has the reason (sinks/outbox/truth.py).
EMAIL_STATUSES = ("queued", "sending", "sent", "failed", "suppressed", "withheld")
CALL_STATUSES = ("queued", "calling", "done", "failed", "suppressed", "withheld")
EXPORT_STATUSES = ("queued", "working", "done", "failed", "expired", "deleted", "suppressed", "withheld")
LETTER_STATUSES = ("open", "replayed", "resolved", "discarded")
# `begun`: an action outside Postgres has started (a replay); it ends as `done` or `failed`, unless it was killed.
AUDIT_OUTCOMES = ("begun", "done", "failed", "refused")

WITHOUT_CUSTOMER = " OR ".join(
    f"type LIKE '{prefix}.%'" for prefix in ("charge.dispute", "review", "radar", "setup_intent", "refund")
)
"""Condition of the types of events that may name a payment or a card, and not its customer."""

# The ledger: one row per event with any outcome. Its primary key ensures that each event is applied once.
events = Table(
    "events",
    metadata,
    _text("event_id", key=True),
    _text("type", null=False),
    _text("stream", null=False),
    _text("customer_id"),
    _text("account", default=""),
    _flag("livemode"),
    _time("created"),
    _time("received_at"),
    _text("source", default="stripe"),
    _text("api_version"),
    _text("endpoint"),
    Column("partition", Integer),
    Column("offset", BigInteger),
    _text("outcome", null=False),
    _text("reason"),
    _count("attempts"),
    _time("applied_at"),
    _json("payload", null=True),
    _json("changes", null=True),
    _one_of("outcome", *OUTCOMES),
    Index("events_customer", "account", "customer_id", "created"),
    Index(
        "events_of_payments",
        "account",
        "type",
        postgresql_where=text(f"customer_id IS NULL AND ({WITHOUT_CUSTOMER})"),
    ),
    Index("events_open", "outcome", "received_at", postgresql_where=text("outcome in ('waiting', 'dead')")),
    Index("events_created", "created", postgresql_using="brin"),
)

customers = Table(
    "customers",
    metadata,
    _text("account", key=True),
    _text("customer_id", key=True),
    _text("email"),
    _text("name"),
    _text("user_id"),
    _text("locale"),
    _text("default_payment_method"),
    _time("deleted_at"),
    _time("erased_at"),
    _time("returned_at"),
    _json("address"),
    _version("profile_version"),
    _version("name_version"),
    _version("address_version"),
    _version("user_version"),
    _version("linked_since"),
    _version("default_version"),
    _text("last_default"),
    _version("last_default_version"),
    Index("customers_user", "account", "user_id", postgresql_where=text("user_id IS NOT NULL")),
)

organizations = Table(
    "organizations",
    metadata,
    _text("organization_id", key=True),
    _text("account", null=False),
    _text("customer_id", null=False),
    _text("name", null=False),
    _text("billing_email"),
    _text("status", null=False),
    _text("billing_status"),
    _text("plan"),
    _json("limits"),
    _flag("has_access"),
    _text("access_reason", default=""),
    _time("access_changes_at"),
    _time("access_until"),
    _json("access_after"),
    Column("access_version", BigInteger, nullable=False, server_default=text("0")),
    _time("next_billing_at"),
    _time("cancelled_at"),
    UniqueConstraint("account", "customer_id"),
    _one_of("status", *state.OrganizationStatus),
)

users = Table(
    "users",
    metadata,
    _text("account", key=True, default=""),
    _text("user_id", key=True),
    _text("email"),
    _text("address_of"),
    _version("address_since"),
)

memberships = Table(
    "memberships",
    metadata,
    _text("organization_id", key=True),
    _text("user_id", key=True),
    _text("role", null=False),
    Index("memberships_user", "user_id"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    _text("account", key=True),
    _text("subscription_id", key=True),
    _text("customer_id", null=False),
    _text("status", null=False),
    _text("stripe_status"),
    _text("price_id"),
    _text("first_price_id"),
    _text("checkout_plan"),
    _text("plan"),
    Column("quantity", BigInteger),
    Column("unit_amount", BigInteger),
    _text("currency"),
    _text("interval"),
    Column("interval_count", Integer),
    _list("items"),
    _time("current_period_start"),
    _time("current_period_end"),
    _time("trial_end"),
    _text("latest_invoice"),
    _text("default_payment_method"),
    _flag("pending_update"),
    _time("cancel_at"),
    _flag("cancel_at_period_end"),
    _time("canceled_at"),
    _text("cancellation_reason"),
    _time("ended_at"),
    _text("pause_collection"),
    _time("resumes_at"),
    _text("failed_invoice"),
    _time("payment_failed_at"),
    _count("payment_attempts"),
    _json("invoices"),
    _json("price_changes"),
    _json("newest"),
    _version("version"),
    _version("first_version"),
    _version("items_version"),
    _version("status_version"),
    _version("billing_version"),
    _version("checkout_version"),
    Index("subscriptions_customer", "account", "customer_id"),
    Index(
        "subscriptions_unknown_price",
        "price_id",
        postgresql_where=text("plan IS NULL AND price_id IS NOT NULL"),
    ),
    _one_of("status", *state.SubscriptionStatus),
)

# The Stripe objects of each payment: `payments` has only one of each kind.
payment_links = Table(
    "payment_links",
    metadata,
    _text("account", key=True),
    _text("stripe_id", key=True),
    _text("payment_id", null=False),
    _text("kind", null=False),
    Index("payment_links_payment", "payment_id"),
    _one_of("kind", *state.LinkKind),
)

payments = Table(
    "payments",
    metadata,
    _text("payment_id", key=True),
    _text("account", null=False),
    _text("invoice_id"),
    _text("checkout_session_id"),
    _text("customer_id"),
    _text("subscription_id"),
    _text("payment_intent_id"),
    _text("charge_id"),
    Column("amount", BigInteger, nullable=False),
    _text("currency", null=False),
    _text("status", null=False),
    Column("amount_remaining", BigInteger),
    _json("owed"),
    _json("credits"),
    _text("failure_reason"),
    _count("attempt_count"),
    _time("first_failed_at"),
    _time("paid_at"),
    _time("closed_at"),
    _json("dunning_steps"),
    _text("recovered_by"),
    _time("lost_at"),
    Column("refunded_amount", BigInteger, nullable=False, server_default=text("0")),
    _flag("on_hold"),
    _time("fulfilled_at"),
    _json("refunds"),
    _json("disputes"),
    _json("open_disputes"),
    _version("version"),
    _version("failure_version"),
    UniqueConstraint("account", "invoice_id"),
    UniqueConstraint("account", "checkout_session_id"),
    Index("payments_customer", "account", "customer_id"),
    Index("payments_payment_intent", "account", "payment_intent_id"),
    Index("payments_charge", "account", "charge_id"),
    _one_of("status", *state.PaymentStatus),
)

payment_methods = Table(
    "payment_methods",
    metadata,
    _text("account", key=True),
    _text("payment_method_id", key=True),
    _text("customer_id"),
    _text("type"),
    _text("brand"),
    _text("last4"),
    Column("exp_month", Integer),
    Column("exp_year", Integer),
    _time("detached_at"),
    _version("version"),
    Index("payment_methods_customer", "account", "customer_id"),
)

disputes = Table(
    "disputes",
    metadata,
    _text("account", key=True),
    _text("dispute_id", key=True),
    _text("charge_id"),
    _text("payment_intent_id"),
    _text("payment_id"),
    _text("customer_id"),
    Column("amount", BigInteger, nullable=False),
    _text("currency", null=False),
    _text("reason"),
    _text("status", null=False),
    _time("due_by"),
    _time("closed_at"),
    _time("funds_withdrawn_at"),
    _time("funds_reinstated_at"),
    _version("version"),
    Index("disputes_charge", "account", "charge_id"),
)

timers = Table(
    "timers",
    metadata,
    _text("timer_key", key=True),
    _text("account", null=False),
    _text("customer_id", null=False),
    _text("kind", null=False),
    _text("subject", null=False),
    _time("due_at", null=False),
    _text("status", null=False),
    _flag("livemode"),
    _json("data"),
    _text("event_id", null=False),
    Index("timers_due", "due_at", postgresql_where=text("status = 'pending'")),
    Index("timers_customer", "account", "customer_id"),
    Index("timers_open", "account", "customer_id", postgresql_where=text("status in ('pending', 'fired')")),
    Index("timers_event", "event_id"),
    _one_of("status", *state.TimerStatus),
)

# The e-mail outbox. If `recipient` is null, the customer's address at the time of sending is used.
emails = Table(
    "emails",
    metadata,
    _text("email_key", key=True),
    _text("event_id", null=False),
    _text("account", default=""),
    _text("customer_id"),
    _text("template", null=False),
    _text("recipient"),
    _text("locale"),
    _flag("livemode"),
    _json("data"),
    _text("status", default="queued"),
    _count("attempts"),
    _time("queued_at", null=False),
    _time("next_attempt_at", null=False),
    _text("claimed_by"),
    _time("sent_at"),
    _text("message_id"),
    _text("last_error"),
    Index("emails_due", "next_attempt_at", postgresql_where=text("status in ('queued', 'sending')")),
    Index("emails_customer", "account", "customer_id"),
    Index("emails_event", "event_id"),
    Index("emails_queued", "queued_at"),
    Index("emails_failed", "queued_at", postgresql_where=text("status = 'failed'")),
    _one_of("status", *EMAIL_STATUSES),
)

# The outbox of calls to Stripe's API. `call_key` is also the idempotency key.
stripe_calls = Table(
    "stripe_calls",
    metadata,
    _text("call_key", key=True),
    _text("event_id", null=False),
    _text("account", default=""),
    _text("customer_id"),
    _flag("livemode"),
    _text("method", null=False),
    _text("path", null=False),
    _json("params"),
    _text("purpose", default=""),
    _text("status", default="queued"),
    _count("attempts"),
    _time("queued_at", null=False),
    _time("next_attempt_at", null=False),
    _text("claimed_by"),
    _time("done_at"),
    _text("last_error"),
    Index("stripe_calls_due", "next_attempt_at", postgresql_where=text("status in ('queued', 'calling')")),
    Index("stripe_calls_customer", "account", "customer_id"),
    Index("stripe_calls_event", "event_id"),
    Index("stripe_calls_queued", "queued_at"),
    Index("stripe_calls_failed", "queued_at", postgresql_where=text("status = 'failed'")),
    _one_of("status", *CALL_STATUSES),
)

# Archives of all data on a customer (behaviours.md B6), see sinks/exports/orders.py. `location` is where the archive is
# stored or being written, under BILLING_EXPORTS_URL. It is null before the first claim and when no archive is left.
exports = Table(
    "exports",
    metadata,
    _text("export_key", key=True),
    _text("event_id", null=False),
    _text("account", default=""),
    _text("customer_id", null=False),
    _text("organization_id", null=False),
    _text("status", default="queued"),
    _count("attempts"),
    _time("requested_at", null=False),
    _time("next_attempt_at", null=False),
    _time("expires_at", null=False),
    _time("done_at"),
    _text("claimed_by"),
    _text("location"),
    Column("bytes", BigInteger),
    _text("sha256"),
    _text("last_error"),
    Index(
        "exports_due",
        "next_attempt_at",
        postgresql_where=text("status in ('queued', 'working', 'done', 'expired')"),
    ),
    Index("exports_customer", "account", "customer_id"),
    Index("exports_event", "event_id"),
    Index("exports_requested", "requested_at"),
    Index("exports_failed", "requested_at", postgresql_where=text("status = 'failed'")),
    _one_of("status", *EXPORT_STATUSES),
)

# What the other side of an outbox does not do at present, per dispatcher that sees it (sinks/outbox/outages.py).
outages = Table(
    "outages",
    metadata,
    _text("outbox", key=True),
    _text("dispatcher", key=True),
    _text("address", null=False),
    _text("reason", null=False),
    _time("since", null=False),
    _time("seen_at", null=False),
)

# Erasures: what was erased, when, and until when Kafka may still contain it. No personal data. Null in `kafka_until` or
# `dead_letters_until`: not known, or nothing is there.
erasures = Table(
    "erasures",
    metadata,
    _text("event_id", key=True),
    _text("account", default=""),
    _text("customer_id", null=False),
    _text("organization_id", null=False),
    _time("asked_at", null=False),
    _time("erased_at", null=False),
    _json("counts"),
    _time("kafka_until"),
    _time("dead_letters_until"),
    Index("erasures_customer", "account", "customer_id"),
)

# Unsubscribes: one row per customer and optional template.
unsubscribed = Table(
    "unsubscribed",
    metadata,
    _text("account", key=True),
    _text("customer_id", key=True),
    _text("template", key=True),
    _time("at", null=False),
)

# The index of the dead-letter topic, which is the source. Key: the original position of the record, and the consumer
# group that failed on it.
dead_letters = Table(
    "dead_letters",
    metadata,
    _text("consumer_group", key=True),
    _text("topic", key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    _text("event_id"),
    _text("type"),
    _text("stream"),
    _text("account", default=""),
    _text("customer_id"),
    _text("stage", null=False),
    _text("error_class", null=False),
    _text("message", null=False),
    _count("attempts"),
    _time("first_failed_at", null=False),
    _time("last_failed_at", null=False),
    _text("code_version", default=""),
    Column("dead_partition", Integer),
    Column("dead_offset", BigInteger),
    _text("status", default="open"),
    _time("closed_at"),
    _text("closed_by"),
    _text("replay_of"),
    _time("replay_begun_at"),
    Index("dead_letters_event", "event_id"),
    Index("dead_letters_customer", "account", "customer_id"),
    Index("dead_letters_failed", "last_failed_at"),
    Index("dead_letters_open", "last_failed_at", postgresql_where=text("status = 'open'")),
    _one_of("status", *LETTER_STATUSES),
)

# Consumer groups that were stopped because too many events died, and how they were released (streams/brake.py).
# Where each consumer group stands in each partition; written in the transaction of each batch.
positions = Table(
    "positions",
    metadata,
    _text("consumer_group", key=True),
    _text("topic", key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("reread_until", BigInteger),
    _time("updated_at", null=False),
)

# One row, written by `billing migrate`: copies of a database have the same id.
database_identity = Table(
    "database_identity",
    metadata,
    _text("database_id", key=True),
    Column("had_events", Boolean, nullable=False),
    _time("created_at", null=False),
)

brakes = Table(
    "brakes",
    metadata,
    _text("consumer_group", key=True),
    _time("tripped_at", null=False),
    _text("message", null=False),
    Column("reasons", JSONB, nullable=False),
    _text("code_version", null=False),
    _time("released_at"),
    _text("released_by"),
    _count("let_die"),
    _text("passed_by"),
    _time("passed_at"),
)

# The mode whose events the state rows come from: at most one row (sinks/postgres/mode_check.py).
system_mode = Table(
    "system_mode",
    metadata,
    Column("is_only", Boolean, primary_key=True, server_default=text("true")),
    Column("livemode", Boolean, nullable=False),
    CheckConstraint("is_only", name="is_only_row"),
)

# The runs of `billing reconcile`, one row per run and account. Events created in [window_from, cursor) are done: a run
# that was killed resumes at the cursor. `scope` names the event types it was limited to, '' for all events.
reconciliations = Table(
    "reconciliations",
    metadata,
    Column("run_id", BigInteger, Identity(), primary_key=True),
    _text("account", default=""),
    _text("scope", default=""),
    _time("started_at", null=False),
    _time("ended_at"),
    _time("window_from", null=False),
    _time("window_until", null=False),
    _time("cursor", null=False),
    _json("counts"),
    _text("last_error"),
    Index("reconciliations_account", "account", "scope", "started_at"),
)

# The runs of `billing audit`, one row per run and account. A run that was interrupted resumes at `cursor` of `phase`.
# `scope` is the window as it was asked for; `differences` is set at the end.
audits = Table(
    "audits",
    metadata,
    Column("run_id", BigInteger, Identity(), primary_key=True),
    _text("account", default=""),
    _text("scope", default=""),
    _time("window_from", null=False),
    _time("window_until", null=False),
    _time("started_at", null=False),
    _time("ended_at"),
    _text("phase", default=""),
    _text("cursor", default=""),
    _json("counts"),
    _json("totals"),
    Column("differences", BigInteger),
    _text("last_error"),
    Index("audits_account", "account", "scope", "started_at"),
)

# What a run found. `fields` are [Stripe's value, the table's value] by name, `subject` is the object of an event.
audit_differences = Table(
    "audit_differences",
    metadata,
    Column("run_id", BigInteger, primary_key=True, autoincrement=False),
    _text("kind", key=True),
    _text("object_id", key=True),
    _text("subject", default=""),
    _text("cause", null=False),
    _text("repair", default=""),
    _json("fields"),
)

# The objects that Stripe listed to a run, and what each adds to a total. Deleted when the run ends.
audit_objects = Table(
    "audit_objects",
    metadata,
    Column("run_id", BigInteger, primary_key=True, autoincrement=False),
    _text("kind", key=True),
    _text("object_id", key=True),
    Column("day", Date),
    _text("currency"),
    Column("amount", BigInteger),
    Column("ours", BigInteger),
)

# In a database made by `billing rebuild`: the offsets of the log that it contains, {partition: [first, next]}.
rebuilds = Table(
    "rebuilds",
    metadata,
    Column("rebuild_id", BigInteger, Identity(), primary_key=True),
    _text("topic", null=False),
    _time("started_at", null=False),
    _time("ended_at"),
    _json("offsets"),
    _json("counts"),
)

# The progress of data migrations (sinks/postgres/backfill.py). `after` is the key of the last row that is done.
backfills = Table(
    "backfills",
    metadata,
    _text("name", key=True),
    _time("started_at", null=False),
    _json("after", null=True),
    Column("rows", BigInteger, nullable=False, server_default=text("0")),
    _time("done_at"),
)

# Who did what to which data (sinks/postgres/audit_log.py). It outlives erasures, so it has ids and no personal data.
audit_log = Table(
    "audit_log",
    metadata,
    Column("entry_id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    _text("who", null=False),
    _text("role", null=False),
    _text("action", null=False),
    _text("target", default=""),
    _json("filter"),
    Column("count", BigInteger),
    _text("outcome", null=False),
    _text("reason"),
    _text("peer"),
    Index("audit_log_at", "at"),
    Index("audit_log_target", "target", "at", postgresql_where=text("target <> ''")),
    _one_of("outcome", *AUDIT_OUTCOMES),
)

STATE_TABLES: dict[type[state.Row], Table] = {
    state.Customer: customers,
    state.Organization: organizations,
    state.User: users,
    state.Membership: memberships,
    state.Subscription: subscriptions,
    state.PaymentLink: payment_links,
    state.Payment: payments,
    state.PaymentMethod: payment_methods,
    state.Dispute: disputes,
    state.Timer: timers,
}
