"""The position of each consumer group in each partition, and the id of this database.

Old databases have no positions: the group's committed offsets are taken over once (streams/positions.py).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "positions",
        sa.Column("consumer_group", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("reread_until", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("consumer_group", "topic", "partition"),
        schema="billing",
    )
    op.create_table(
        "database_identity",
        sa.Column("database_id", sa.Text(), nullable=False),
        sa.Column("had_events", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("database_id"),
        schema="billing",
    )


def downgrade() -> None:
    op.drop_table("database_identity", schema="billing")
    op.drop_table("positions", schema="billing")
