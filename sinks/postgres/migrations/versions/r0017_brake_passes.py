"""Which code version passed a brake that holds another version, and when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("brakes", sa.Column("passed_by", sa.Text(), nullable=True), schema="billing")
    op.add_column("brakes", sa.Column("passed_at", sa.DateTime(timezone=True), nullable=True), schema="billing")


def downgrade() -> None:
    op.drop_column("brakes", "passed_at", schema="billing")
    op.drop_column("brakes", "passed_by", schema="billing")
