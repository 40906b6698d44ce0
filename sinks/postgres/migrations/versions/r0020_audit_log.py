"""Who did what to which data: one row per action of an operator or a schedule."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("entry_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("filter", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("peer", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("entry_id"),
        sa.CheckConstraint("outcome in ('begun', 'done', 'failed', 'refused')", name="outcome_known"),
        schema="billing",
    )
    op.create_index("audit_log_at", "audit_log", ["at"], schema="billing")
    op.create_index(
        "audit_log_target",
        "audit_log",
        ["target", "at"],
        schema="billing",
        postgresql_where=sa.text("target <> ''"),
    )


def downgrade() -> None:
    op.drop_table("audit_log", schema="billing")
