"""MRR of subscriptions that end while they are paused.

It is null in rows of earlier versions. An owner's rows are computed again with its next event, and all of them by
`billing analytics recount`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("movements", sa.Column("paused_lost", sa.BigInteger()), schema="analytics", if_not_exists=True)


def downgrade() -> None:
    # A movement of 0 is only there for what the column says.
    op.execute("DELETE FROM analytics.movements WHERE amount = 0 AND list_amount = 0")
    op.drop_column("movements", "paused_lost", schema="analytics")
