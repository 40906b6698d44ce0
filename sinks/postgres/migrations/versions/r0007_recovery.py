"""How each failed invoice came to be paid, by which dunning step, or was lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("closed_at", "lost_at"):
        op.add_column("payments", sa.Column(name, sa.DateTime(timezone=True), nullable=True), schema="billing")
    op.add_column("payments", sa.Column("recovered_by", sa.Text(), nullable=True), schema="billing")
    steps = sa.Column("dunning_steps", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
    op.add_column("payments", steps, schema="billing")
