"""Which events and objects belong to a customer or a guest that they do not name; when a payload was pruned.

sinks/postgres/backfill.py notes the objects of stored events.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sinks.postgres.migrations import online

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pruned = sa.Column("payload_pruned_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("events", pruned, schema="billing", if_not_exists=True)
    op.create_table(
        "event_objects",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account", "stripe_id", "event_id"),
        schema="billing",
        if_not_exists=True,
    )
    op.create_table(
        "object_owners",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account", "stripe_id"),
        schema="billing",
        if_not_exists=True,
    )
    online.create_index("event_objects_event", "event_objects", ["event_id"])
    online.create_index("object_owners_customer", "object_owners", ["account", "customer_id"])
    online.create_index("events_with_payload", "events", ["applied_at"], where="payload IS NOT NULL")
    settled = "status in ('done', 'cancelled') AND data <> '{}'"
    online.create_index("timers_with_data", "timers", ["due_at"], where=settled)
