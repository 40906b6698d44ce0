"""The id of the topic that a position belongs to, and since when a group lacks records that Kafka deleted unread.

A topic that was deleted and created again begins at 0. Positions from before have no id, and get that of the topic
that their worker finds (streams/positions.py).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("positions", sa.Column("topic_id", sa.Text(), nullable=True), schema="billing")
    op.add_column("positions", sa.Column("gap_since", sa.DateTime(timezone=True), nullable=True), schema="billing")
    op.add_column("positions", sa.Column("gap_noted_at", sa.DateTime(timezone=True), nullable=True), schema="billing")


def downgrade() -> None:
    op.drop_column("positions", "gap_noted_at", schema="billing")
    op.drop_column("positions", "gap_since", schema="billing")
    op.drop_column("positions", "topic_id", schema="billing")
