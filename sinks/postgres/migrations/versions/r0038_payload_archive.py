"""Where an archived payload is, and the key that reads it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sinks.postgres.migrations import online

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("payload_key", sa.LargeBinary(), nullable=True),
        sa.Column("payload_place", sa.Text(), nullable=True),
    ):
        op.add_column("events", column, schema="billing", if_not_exists=True)
    online.create_index("events_archived", "events", ["payload_pruned_at"], where="payload_key IS NOT NULL")
