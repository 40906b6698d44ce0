"""The status `withheld` of every outbox, and the outages that dispatchers see.

Mails of test mode and to customers who have unsubscribed were `failed`, which hid them among the failures. A backfill
(sinks/postgres/backfill.py) gives those rows the new status.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sinks.postgres.migrations import online

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_BEFORE = {
    "emails": ("queued", "sending", "sent", "failed", "suppressed"),
    "stripe_calls": ("queued", "calling", "done", "failed", "suppressed"),
    "exports": ("queued", "working", "done", "failed", "expired", "deleted", "suppressed"),
}


def upgrade() -> None:
    for table, statuses in _BEFORE.items():
        online.replace_check("status_known", table, _allowed((*statuses, "withheld")))
    op.create_table(
        "outages",
        sa.Column("outbox", sa.Text(), nullable=False),
        sa.Column("dispatcher", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("outbox", "dispatcher"),
        schema="billing",
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("outages", schema="billing")
    for table, statuses in _BEFORE.items():
        op.execute(f"UPDATE billing.{table} SET status = 'failed' WHERE status = 'withheld'")  # noqa: S608  # constants
        online.replace_check("status_known", table, _allowed(statuses))


def _allowed(statuses: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{status}'" for status in statuses)
    return f"status IN ({listed})"
