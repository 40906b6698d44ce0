"""The running state of owners with many facts, so that `billing analytics` does not read all of them at each event.

The indexes find an owner's newest facts, and all facts of one invoice, purchase or charge. Checkpoints fill themselves:
an owner without one is computed from all of its facts, as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from sinks.postgres.migrations import online

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("state", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("account", "livemode", "owner"),
        schema="analytics",
        if_not_exists=True,
    )
    owner = ["account", "livemode", "owner"]
    online.create_index("facts_owner_created", "facts", [*owner, "created"], schema="analytics")
    online.create_index("facts_subject", "facts", ["subject"], schema="analytics")
    online.create_index(
        "facts_purchase", "facts", ["(data ->> 'invoice')"], where="kind = 'purchase'", schema="analytics"
    )
    online.create_index("risks_ended", "risks", [*owner, "ended_at"], schema="analytics")
    online.create_index("recoveries_ended", "recoveries", [*owner, "ended_at"], schema="analytics")
    online.drop_index("facts_owner", schema="analytics")


def downgrade() -> None:
    owner = ["account", "livemode", "owner"]
    online.create_index("facts_owner", "facts", owner, schema="analytics")
    for name in ("facts_owner_created", "facts_subject", "facts_purchase", "risks_ended", "recoveries_ended"):
        online.drop_index(name, schema="analytics")
    op.drop_table("checkpoints", schema="analytics")
