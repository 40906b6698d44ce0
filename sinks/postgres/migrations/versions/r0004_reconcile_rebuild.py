"""Runs of reconcile and rebuild, and the status of what a rebuild must not send."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATUSES = {
    "emails": ("queued", "sending", "sent", "failed", "suppressed"),
    "stripe_calls": ("queued", "calling", "done", "failed", "suppressed"),
    "exports": ("queued", "working", "done", "failed", "expired", "deleted", "suppressed"),
}


def upgrade() -> None:
    for table, statuses in _STATUSES.items():
        listed = ", ".join(f"'{status}'" for status in statuses)
        op.drop_constraint("status_known", table, schema="billing", type_="check")
        op.create_check_constraint("status_known", table, f"status in ({listed})", schema="billing")
    op.create_table(
        "reconciliations",
        sa.Column("run_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("scope", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("window_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cursor", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counts", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id"),
        schema="billing",
    )
    op.create_index("reconciliations_account", "reconciliations", ["account", "scope", "started_at"], schema="billing")
    op.create_table(
        "rebuilds",
        sa.Column("rebuild_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("offsets", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("counts", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("rebuild_id"),
        schema="billing",
    )
