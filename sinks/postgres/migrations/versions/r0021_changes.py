"""What each event changed: the fields before and after. Null for events that changed nothing, and for older ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("changes", postgresql.JSONB(), nullable=True)
    op.add_column("events", column, schema="billing", if_not_exists=True)
    # As for the payload: a server without lz4 keeps pglz.
    op.execute(
        """
        DO $$
        BEGIN
            ALTER TABLE billing.events ALTER COLUMN changes SET COMPRESSION lz4;
        EXCEPTION WHEN feature_not_supported THEN
            RAISE NOTICE 'this server has no lz4, changes are compressed with pglz';
        END
        $$
        """
    )


def downgrade() -> None:
    op.drop_column("events", "changes", schema="billing")
