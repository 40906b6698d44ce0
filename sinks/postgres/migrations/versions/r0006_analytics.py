"""Schema `analytics`: the facts that events told, and the figures that follow from them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SCHEMA = "analytics"


def upgrade() -> None:
    if not op.get_bind().execute(sa.text("SELECT to_regnamespace('analytics')")).scalar():
        op.execute("CREATE SCHEMA analytics")
    op.create_table(
        "facts",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
        _one_of("kind", "subscription", "invoice_paid", "invoice_failed", "invoice_given_up", "purchase", "refund"),
        schema=_SCHEMA,
    )
    op.create_index("facts_owner", "facts", ["account", "livemode", "owner"], schema=_SCHEMA)
    op.create_table(
        "movements",
        *_owner(),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("account", "livemode", "owner", "currency", "at", "plan"),
        _one_of("kind", "new", "expansion", "contraction", "churn", "reactivation"),
        schema=_SCHEMA,
    )
    op.create_index("movements_day", "movements", ["day"], schema=_SCHEMA)
    op.create_table(
        "risks",
        *_owner(),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("mrr", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("account", "livemode", "owner", "subscription_id", "began_at"),
        _one_of("outcome", "open", "recovered", "lost"),
        schema=_SCHEMA,
    )
    op.create_table(
        "recoveries",
        *_owner(),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seconds", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("account", "livemode", "owner", "invoice_id"),
        _one_of("outcome", "open", "recovered", "lost"),
        schema=_SCHEMA,
    )
    op.create_table(
        "payments",
        *_owner(),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("account", "livemode", "owner", "subject", "at"),
        _one_of("kind", "invoice", "purchase", "failed", "refund"),
        schema=_SCHEMA,
    )
    op.create_index("payments_day", "payments", ["day"], schema=_SCHEMA)


def downgrade() -> None:
    op.execute("DROP SCHEMA analytics CASCADE")  # `billing analytics recount` fills it again


def _owner() -> tuple[sa.Column[str], sa.Column[bool], sa.Column[str]]:
    return (
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
    )


def _one_of(column: str, *values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} in ({listed})", name=f"{column}_known")
