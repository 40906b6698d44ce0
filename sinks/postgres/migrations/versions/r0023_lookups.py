"""Indexes for operators: events in the order in which they were processed, and look-ups by address, name and place.

Lists of events are ordered by `applied_at`, not by `received_at`: replays and retries keep the time of their first
receipt, so a poller that looks at the newest `received_at` would miss them.
"""

from __future__ import annotations

from sinks.postgres.migrations import online

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.create_index("events_applied", "events", ["applied_at", "event_id"])
    online.create_index("customers_email", "customers", ["lower(email)"], where="email IS NOT NULL")
    online.create_index("customers_name", "customers", ["lower(name) text_pattern_ops"], where="name IS NOT NULL")
    online.create_index("emails_message", "emails", ["message_id"], where="message_id IS NOT NULL")
    online.create_index("emails_withheld", "emails", ["queued_at"], where="status = 'withheld'")
    online.create_index("payments_failed", "payments", ["first_failed_at"], where="status = 'failed'")
    online.create_index("dead_letters_place", "dead_letters", ["topic", '"partition"', '"offset"'])
    online.create_index("dead_letters_record", "dead_letters", ["dead_partition", "dead_offset"])
