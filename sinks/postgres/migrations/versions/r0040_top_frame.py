"""Where in the code the error of a dead letter was raised, so that letters of one cause are one group.

It is empty for rows of earlier versions, whose traceback is only in the dead-letter topic.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("top_frame", sa.Text(), server_default=sa.text("''"), nullable=False)
    op.add_column("dead_letters", column, schema="billing")


def downgrade() -> None:
    op.drop_column("dead_letters", "top_frame", schema="billing")
