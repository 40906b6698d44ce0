"""Runs of `billing audit` and what they found; an index that finds the events of a window of time.

The index is a BRIN: events are stored about in the order of `created`, and it costs the worker almost nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from sinks.postgres.migrations import online

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audits",
        sa.Column("run_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("scope", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("window_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("phase", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("cursor", sa.Text(), server_default=sa.text("''"), nullable=False),
        _json("counts"),
        _json("totals"),
        sa.Column("differences", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id"),
        schema="billing",
        if_not_exists=True,
    )
    op.create_table(
        "audit_differences",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("repair", sa.Text(), server_default=sa.text("''"), nullable=False),
        _json("fields"),
        sa.PrimaryKeyConstraint("run_id", "kind", "object_id"),
        schema="billing",
        if_not_exists=True,
    )
    op.create_table(
        "audit_objects",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("ours", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "kind", "object_id"),
        schema="billing",
        if_not_exists=True,
    )
    online.create_index("audits_account", "audits", ["account", "scope", "started_at"])
    online.create_index("events_created", "events", ["created"], using="brin")


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
