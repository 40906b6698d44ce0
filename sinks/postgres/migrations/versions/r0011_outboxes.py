"""The status `withheld` of every outbox, and the outages that dispatchers see.

Mails of test mode and to customers who have unsubscribed were `failed`, which hid them among the failures.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_BEFORE = {
    "emails": ("queued", "sending", "sent", "failed", "suppressed"),
    "stripe_calls": ("queued", "calling", "done", "failed", "suppressed"),
    "exports": ("queued", "working", "done", "failed", "expired", "deleted", "suppressed"),
}
_WITHHELD = ("test mode: mail.send_test_mode is off", "the customer has unsubscribed from these mails")


def upgrade() -> None:
    for table, statuses in _BEFORE.items():
        _allow(table, (*statuses, "withheld"))
    listed = ", ".join(f"'{reason}'" for reason in _WITHHELD)
    op.execute(f"UPDATE billing.emails SET status = 'withheld' WHERE status = 'failed' AND last_error IN ({listed})")  # noqa: S608  # constants
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
    )


def downgrade() -> None:
    op.drop_table("outages", schema="billing")
    for table, statuses in _BEFORE.items():
        op.execute(f"UPDATE billing.{table} SET status = 'failed' WHERE status = 'withheld'")  # noqa: S608  # constants
        _allow(table, statuses)


def _allow(table: str, statuses: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{status}'" for status in statuses)
    op.drop_constraint("status_known", table, schema="billing", type_="check")
    op.execute(f"ALTER TABLE billing.{table} ADD CONSTRAINT status_known CHECK (status in ({listed})) NOT VALID")
    op.execute(f"ALTER TABLE billing.{table} VALIDATE CONSTRAINT status_known")
