"""Columns that order events of one second about customers, payment methods and disputes (behaviours.md D2)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_TABLES = ("customers", "payment_methods", "disputes")


def upgrade() -> None:
    for table in _TABLES:
        column = sa.Column("newest", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
        op.add_column(table, column, schema="billing")


def downgrade() -> None:
    for table in _TABLES:
        op.drop_column(table, "newest", schema="billing")
