"""What the payments stream keeps: refunds and open disputes of a payment, the default method apart from the profile."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("default_version", "last_default_version"):
        op.add_column("customers", _version(name), schema="billing")
    op.add_column("customers", sa.Column("last_default", sa.Text(), nullable=True), schema="billing")
    for name in ("refunds", "open_disputes"):
        column = sa.Column(name, postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
        op.add_column("payments", column, schema="billing")
    op.add_column("payments", _version("failure_version"), schema="billing")
    for name in ("funds_withdrawn_at", "funds_reinstated_at"):
        op.add_column("disputes", sa.Column(name, sa.DateTime(timezone=True), nullable=True), schema="billing")


def _version(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False)
