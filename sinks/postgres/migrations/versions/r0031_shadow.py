"""Shadow mode, and indexes that find what it held."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sinks.postgres.migrations import online

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_HELD = "status = 'withheld' AND last_error = 'shadow: it would have left'"


def upgrade() -> None:
    op.create_table(
        "shadow",
        sa.Column("is_only", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("is_only", name="is_only_row"),
        sa.PrimaryKeyConstraint("is_only"),
        schema="billing",
        if_not_exists=True,
    )
    for table in ("emails", "stripe_calls", "notifications"):
        online.create_index(f"{table}_held", table, ["queued_at"], where=_HELD)
    online.create_index("exports_held", "exports", ["requested_at"], where=_HELD)
