"""The mode that a database belongs to. The first start of a process records it (sinks/postgres/mode_check.py)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "system_mode",
        sa.Column("is_only", sa.Boolean(), server_default=sa.text("true"), primary_key=True),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.CheckConstraint("is_only", name="is_only_row"),
        schema="billing",
    )


def downgrade() -> None:
    op.drop_table("system_mode", schema="billing")
