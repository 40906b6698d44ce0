"""What a subscription showed before the second of its version.

It is empty in rows of earlier versions, until two events of one second and the one before them have been applied. An
empty one decides nothing, as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "subscriptions",
        sa.Column("earlier", JSONB, nullable=False, server_default=sa.text("'[]'")),
        schema="billing",
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_column("subscriptions", "earlier", schema="billing")
