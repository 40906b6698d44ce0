"""Defines the tables of schema `analytics`: facts, and the figures computed from them (schemas/figures.py)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Index,
    Integer,
    MetaData,
    Table,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB

from schemas import figures
from sinks.postgres.columns import one_of, text, time

metadata = MetaData(schema="analytics")


def _money(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _owner() -> tuple[Column[str], Column[bool], Column[str]]:
    return text("account", key=True), Column("livemode", Boolean, primary_key=True), text("owner", key=True)


# One row per event that contains a fact. Because of the primary key, a replayed event counts once.
facts = Table(
    "facts",
    metadata,
    text("event_id", key=True),
    text("account", null=False),
    Column("livemode", Boolean, nullable=False),
    text("owner", null=False),
    text("kind", null=False),
    text("subject", null=False),
    time("created", null=False),
    Column("rank", Integer, nullable=False),
    Column("data", JSONB, nullable=False),
    Index("facts_owner_created", "account", "livemode", "owner", "created"),
    Index("facts_subject", "subject"),
    Index("facts_purchase", sql("(data ->> 'invoice')"), postgresql_where=sql("kind = 'purchase'")),
    one_of("kind", *figures.FactKind),
)

movements = Table(
    "movements",
    metadata,
    *_owner(),
    text("currency", key=True),
    time("at", key=True),
    text("plan", key=True),
    text("kind", null=False),
    _money("amount"),
    Column("list_amount", BigInteger),
    Column("paused_lost", BigInteger),
    Column("day", Date, nullable=False),
    Index("movements_day", "day"),
    one_of("kind", *figures.MovementKind),
)

risks = Table(
    "risks",
    metadata,
    *_owner(),
    text("subscription_id", key=True),
    time("began_at", key=True),
    text("currency", null=False),
    _money("mrr"),
    text("outcome", null=False),
    time("ended_at"),
    Index("risks_ended", "account", "livemode", "owner", "ended_at"),
    one_of("outcome", *figures.RiskOutcome),
)

recoveries = Table(
    "recoveries",
    metadata,
    *_owner(),
    text("invoice_id", key=True),
    text("subscription_id"),
    text("currency", null=False),
    _money("amount"),
    Column("attempts", Integer, nullable=False),
    time("first_failed_at", null=False),
    text("step", null=False),
    text("outcome", null=False),
    time("ended_at"),
    Column("seconds", BigInteger),
    Index("recoveries_ended", "account", "livemode", "owner", "ended_at"),
    one_of("outcome", *figures.RiskOutcome),
)

payments = Table(
    "payments",
    metadata,
    *_owner(),
    text("subject", key=True),
    time("at", key=True),
    text("kind", null=False),
    text("currency", null=False),
    _money("amount"),
    Column("day", Date, nullable=False),
    Index("payments_day", "day"),
    one_of("kind", *figures.PaymentKind),
)

payment_totals = Table(
    "payment_totals",
    metadata,
    *_owner(),
    text("currency", key=True),
    *(_money(name) for name in ("payments", "amount", "unpaid", "unpaid_amount", "refunded")),
)

usage = Table(
    "usage",
    metadata,
    *_owner(),
    text("subscription_id", key=True),
    text("currency", null=False),
    _money("amount"),
    text("invoice_id", null=False),
    time("at", null=False),
)

# What the older facts of an owner with many of them add up to (running.py). Every row can be computed again.
checkpoints = Table(
    "checkpoints",
    metadata,
    *_owner(),
    time("since", null=False),
    text("made_by", null=False),
    Column("state", JSONB, nullable=False),
)

FIGURE_TABLES: dict[type[figures.Figure], Table] = {
    figures.Movement: movements,
    figures.Risk: risks,
    figures.Recovery: recoveries,
    figures.PaymentFigure: payments,
    figures.PaymentTotal: payment_totals,
    figures.Usage: usage,
}
