"""Earlier vacuums of the big tables, so that none waits until a fifth of millions of rows is dead or new.

Postgres counts dead rows from a table's size. At 10 million mails its default lets 2 million dead versions gather,
which every index keeps. And the ledger, of which rows are only added, is neither frozen nor marked as visible until it
has grown by a fifth. The lock excludes only a vacuum and other changes of the schema, no reader and no writer.
"""

from __future__ import annotations

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_UPDATED = (
    *("billing.customers", "billing.organizations", "billing.subscriptions", "billing.payments"),
    *("billing.payment_methods", "billing.disputes", "billing.users", "billing.memberships"),
    *("billing.exports", "billing.notifications", "billing.dead_letters"),
    *("analytics.facts", "analytics.movements", "analytics.payments", "analytics.payment_totals"),
)
"""Besides those of revision 0010: events, emails, timers and stripe_calls."""
_ADDED_TO = (
    *("billing.events", "billing.emails", "billing.payments", "billing.payment_links", "billing.event_objects"),
    *("analytics.facts", "analytics.movements", "analytics.payments"),
)


def upgrade() -> None:
    for table in _UPDATED:
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)"
        )
    for table in _ADDED_TO:
        op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_insert_scale_factor = 0.05)")


def downgrade() -> None:
    for table in _ADDED_TO:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_insert_scale_factor)")
    for table in _UPDATED:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor)")
