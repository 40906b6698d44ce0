"""An index of the recorded erasures of guests, which a restored database repeats.

There are few among all events. Without it `billing erase --repeat-guests` reads the whole ledger, and Postgres cancels
the statement after 30 seconds.
"""

from __future__ import annotations

from sinks.postgres.migrations import online

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.create_index(
        "events_guest_erasures", "events", ["account", "created"], where="type = 'guest_erasure.requested'"
    )


def downgrade() -> None:
    online.drop_index("events_guest_erasures")
