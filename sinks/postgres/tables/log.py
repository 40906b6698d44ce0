"""The tables of the log: the ledger of events, the index of dead letters, and how far a consumer group is."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB

from sinks.postgres.columns import count, flag, json, one_of, text, time
from sinks.postgres.tables.metadata import metadata

OUTCOMES = ("applied", "ignored", "stale", "waiting", "dead")
LETTER_STATUSES = ("open", "replayed", "resolved", "discarded")

WITHOUT_CUSTOMER = " OR ".join(
    f"type LIKE '{prefix}.%'" for prefix in ("charge.dispute", "review", "radar", "setup_intent", "refund")
)
"""Condition of the types of events that may name a payment or a card, and not its customer."""

# The ledger: one row per event with any outcome. Its primary key ensures that each event is applied once. An archived
# payload is at `payload_place`, and only `payload_key` reads it: an erasure clears both (sinks/payloads/).
events = Table(
    "events",
    metadata,
    text("event_id", key=True),
    text("type", null=False),
    text("stream", null=False),
    text("customer_id"),
    text("account", default=""),
    flag("livemode"),
    time("created"),
    time("received_at"),
    text("source", default="stripe"),
    text("api_version"),
    text("endpoint"),
    Column("partition", Integer),
    Column("offset", BigInteger),
    text("outcome", null=False),
    text("reason"),
    count("attempts"),
    time("applied_at"),
    json("payload", null=True),
    json("changes", null=True),
    time("payload_pruned_at"),
    Column("payload_key", LargeBinary),
    text("payload_place"),
    one_of("outcome", *OUTCOMES),
    Index("events_customer", "account", "customer_id", "created"),
    Index(
        "events_of_payments",
        "account",
        "type",
        postgresql_where=sql(f"customer_id IS NULL AND ({WITHOUT_CUSTOMER})"),
    ),
    Index("events_open", "outcome", "received_at", postgresql_where=sql("outcome in ('waiting', 'dead')")),
    Index("events_created", "created", postgresql_using="brin"),
    Index("events_applied", "applied_at", "event_id"),
    Index("events_with_payload", "applied_at", postgresql_where=sql("payload IS NOT NULL")),
    Index("events_archived", "payload_pruned_at", postgresql_where=sql("payload_key IS NOT NULL")),
    Index("events_guest_erasures", "account", "created", postgresql_where=sql("type = 'guest_erasure.requested'")),
)

# Erasures: what was erased, when, and until when Kafka may still contain it. No personal data. Null in `kafka_until` or
# `dead_letters_until`: not known, or nothing is there.
erasures = Table(
    "erasures",
    metadata,
    text("event_id", key=True),
    text("account", default=""),
    text("customer_id", null=False),
    text("organization_id", null=False),
    time("asked_at", null=False),
    time("erased_at", null=False),
    json("counts"),
    time("kafka_until"),
    time("dead_letters_until"),
    Index("erasures_customer", "account", "customer_id"),
)

# The Stripe objects, and the digests of guests' addresses, that an event without a customer names. The way from a
# customer or a guest to events that do not name them.
event_objects = Table(
    "event_objects",
    metadata,
    text("account", key=True),
    text("stripe_id", key=True),
    text("event_id", key=True),
    Index("event_objects_event", "event_id"),
)

# Whose an object is, kept when the payloads that said so are erased or pruned. An erased guest has a random id.
object_owners = Table(
    "object_owners",
    metadata,
    text("account", key=True),
    text("stripe_id", key=True),
    text("customer_id", null=False),
    Index("object_owners_customer", "account", "customer_id"),
)

# The index of the dead-letter topic, which is the source. Key: the original position of the record, and the consumer
# group that failed on it.
dead_letters = Table(
    "dead_letters",
    metadata,
    text("consumer_group", key=True),
    text("topic", key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    text("event_id"),
    text("type"),
    text("stream"),
    text("account", default=""),
    text("customer_id"),
    text("stage", null=False),
    text("error_class", null=False),
    text("message", null=False),
    count("attempts"),
    time("first_failed_at", null=False),
    time("last_failed_at", null=False),
    text("code_version", default=""),
    Column("dead_partition", Integer),
    Column("dead_offset", BigInteger),
    text("status", default="open"),
    time("closed_at"),
    text("closed_by"),
    text("replay_of"),
    time("replay_begun_at"),
    text("top_frame", default=""),
    Index("dead_letters_event", "event_id"),
    Index("dead_letters_customer", "account", "customer_id"),
    Index("dead_letters_failed", "last_failed_at"),
    Index("dead_letters_place", "topic", "partition", "offset"),
    Index("dead_letters_record", "dead_partition", "dead_offset"),
    Index("dead_letters_open", "last_failed_at", postgresql_where=sql("status = 'open'")),
    one_of("status", *LETTER_STATUSES),
)

# The position of each consumer group in each partition; written in the transaction of each batch.
positions = Table(
    "positions",
    metadata,
    text("consumer_group", key=True),
    text("topic", key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("reread_until", BigInteger),
    time("updated_at", null=False),
    text("topic_id"),
    time("gap_since"),
    time("gap_noted_at"),
)

# Consumer groups that were stopped because too many events died, and how they were released (streams/brake.py).
brakes = Table(
    "brakes",
    metadata,
    text("consumer_group", key=True),
    time("tripped_at", null=False),
    text("message", null=False),
    Column("reasons", JSONB, nullable=False),
    text("code_version", null=False),
    time("released_at"),
    text("released_by"),
    count("let_die"),
    text("passed_by"),
    time("passed_at"),
)
