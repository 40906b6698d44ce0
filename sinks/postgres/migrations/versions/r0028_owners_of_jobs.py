"""Which run works on a job of the console.

sinks/postgres/backfill.py removes the addresses from stored records of its actions.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A job without an owner is taken over once its last sign of life is old, as one whose process is gone.
    op.add_column("console_actions", sa.Column("owner", sa.Text()), schema="billing", if_not_exists=True)
