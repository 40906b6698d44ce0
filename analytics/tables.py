"""Defines the tables of schema `analytics`: facts, and the figures computed from them (schemas/figures.py)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from schemas import figures

metadata = MetaData(schema="analytics")


def _text(name: str, *, key: bool = False, null: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=null)


def _time(name: str, *, key: bool = False, null: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), primary_key=key, nullable=null)


def _money(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _owner() -> tuple[Column[str], Column[bool], Column[str]]:
    return _text("account", key=True), Column("livemode", Boolean, primary_key=True), _text("owner", key=True)


def _one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=f"{column}_known")


# One row per event that contains a fact. Because of the primary key, a replayed event counts once.
facts = Table(
    "facts",
    metadata,
    _text("event_id", key=True),
    _text("account"),
    Column("livemode", Boolean, nullable=False),
    _text("owner"),
    _text("kind"),
    _text("subject"),
    _time("created"),
    Column("rank", Integer, nullable=False),
    Column("data", JSONB, nullable=False),
    Index("facts_owner", "account", "livemode", "owner"),
    _one_of("kind", *figures.FactKind),
)

movements = Table(
    "movements",
    metadata,
    *_owner(),
    _text("currency", key=True),
    _time("at", key=True),
    _text("plan", key=True),
    _text("kind"),
    _money("amount"),
    Column("day", Date, nullable=False),
    Index("movements_day", "day"),
    _one_of("kind", *figures.MovementKind),
)

risks = Table(
    "risks",
    metadata,
    *_owner(),
    _text("subscription_id", key=True),
    _time("began_at", key=True),
    _text("currency"),
    _money("mrr"),
    _text("outcome"),
    _time("ended_at", null=True),
    _one_of("outcome", *figures.RiskOutcome),
)

recoveries = Table(
    "recoveries",
    metadata,
    *_owner(),
    _text("invoice_id", key=True),
    _text("subscription_id", null=True),
    _text("currency"),
    _money("amount"),
    Column("attempts", Integer, nullable=False),
    _time("first_failed_at"),
    _text("step"),
    _text("outcome"),
    _time("ended_at", null=True),
    Column("seconds", BigInteger),
    _one_of("outcome", *figures.RiskOutcome),
)

payments = Table(
    "payments",
    metadata,
    *_owner(),
    _text("subject", key=True),
    _time("at", key=True),
    _text("kind"),
    _text("currency"),
    _money("amount"),
    Column("day", Date, nullable=False),
    Index("payments_day", "day"),
    _one_of("kind", *figures.PaymentKind),
)

FIGURE_TABLES: dict[type[figures.Figure], Table] = {
    figures.Movement: movements,
    figures.Risk: risks,
    figures.Recovery: recoveries,
    figures.PaymentFigure: payments,
}
