"""Exports, erasures, and who has unsubscribed (behaviours.md B6)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("customers", sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True), schema="billing")
    op.create_index(
        "events_of_charges",
        "events",
        ["account", "type"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("customer_id IS NULL AND (type LIKE 'charge.dispute.%' OR type LIKE 'review.%')"),
    )
    op.create_table(
        "exports",
        sa.Column("export_key", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status in ('queued', 'working', 'done', 'failed', 'expired', 'deleted')", name="status_known"
        ),
        sa.PrimaryKeyConstraint("export_key"),
        schema="billing",
    )
    op.create_index(
        "exports_due",
        "exports",
        ["next_attempt_at"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("status in ('queued', 'working', 'done', 'expired')"),
    )
    op.create_index("exports_customer", "exports", ["account", "customer_id"], unique=False, schema="billing")
    op.create_table(
        "erasures",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counts", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("kafka_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dead_letters_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("event_id"),
        schema="billing",
    )
    op.create_index("erasures_customer", "erasures", ["account", "customer_id"], unique=False, schema="billing")
    op.create_table(
        "unsubscribed",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account", "customer_id", "template"),
        schema="billing",
    )


def downgrade() -> None:
    raise NotImplementedError("a backup is the way back: these tables say what was erased and who unsubscribed")
