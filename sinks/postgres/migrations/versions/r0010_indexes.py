"""Indexes for the queries of operators, exports and erasures, and for a customer's open timers; earlier vacuums.

Built concurrently. Measured with 5 million events: each takes about a second, and saves a full read of its table.
"""

from __future__ import annotations

from alembic import op

from sinks.postgres.migrations import online

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# By default, a table is vacuumed once a fifth of its rows are dead. A sent mail leaves two dead versions.
_BUSY = ("events", "emails", "timers", "stripe_calls")


def upgrade() -> None:
    for table in _BUSY:
        op.execute(
            f"ALTER TABLE billing.{table} SET (autovacuum_vacuum_scale_factor = 0.02, "
            "autovacuum_analyze_scale_factor = 0.02)"
        )
    open_timers = "status in ('pending', 'fired')"
    online.create_index("timers_open", "timers", ["account", "customer_id"], where=open_timers)
    online.create_index("timers_event", "timers", ["event_id"])
    online.create_index("emails_queued", "emails", ["queued_at"])
    online.create_index("emails_failed", "emails", ["queued_at"], where="status = 'failed'")
    online.create_index("stripe_calls_customer", "stripe_calls", ["account", "customer_id"])
    online.create_index("stripe_calls_event", "stripe_calls", ["event_id"])
    online.create_index("stripe_calls_queued", "stripe_calls", ["queued_at"])
    online.create_index("stripe_calls_failed", "stripe_calls", ["queued_at"], where="status = 'failed'")
    online.create_index("exports_event", "exports", ["event_id"])
    online.create_index("exports_requested", "exports", ["requested_at"])
    online.create_index("exports_failed", "exports", ["requested_at"], where="status = 'failed'")
    online.create_index("dead_letters_customer", "dead_letters", ["account", "customer_id"])
    online.create_index("dead_letters_failed", "dead_letters", ["last_failed_at"])
