"""Indexes of the contents that `billing prune` has not ended yet.

Without them each batch reads the rows that earlier batches have pruned.
"""

from __future__ import annotations

from sinks.postgres.migrations import online

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.create_index(
        "emails_with_data", "emails", ["queued_at"], where="data <> '{}' AND status NOT IN ('queued', 'sending')"
    )
    online.create_index(
        "stripe_calls_with_params",
        "stripe_calls",
        ["queued_at"],
        where="params <> '{}' AND status IN ('done', 'withheld', 'suppressed')",
    )
    online.create_index(
        "notifications_with_data",
        "notifications",
        ["queued_at"],
        where="data <> '{}' AND status NOT IN ('queued', 'sending', 'failed')",
    )


def downgrade() -> None:
    online.drop_index("notifications_with_data")
    online.drop_index("stripe_calls_with_params")
    online.drop_index("emails_with_data")
