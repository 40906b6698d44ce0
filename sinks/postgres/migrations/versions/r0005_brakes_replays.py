"""Which consumer groups stand still because too many events died; what was replayed, and what died again of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("dead_letters", sa.Column("replay_of", sa.Text(), nullable=True), schema="billing")
    began = sa.Column("replay_begun_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("dead_letters", began, schema="billing")
    op.create_table(
        "brakes",
        sa.Column("consumer_group", sa.Text(), nullable=False),
        sa.Column("tripped_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("reasons", postgresql.JSONB(), nullable=False),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("let_die", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("consumer_group"),
        schema="billing",
    )


def downgrade() -> None:
    raise NotImplementedError("a backup is the way back: what was replayed is written nowhere else")
