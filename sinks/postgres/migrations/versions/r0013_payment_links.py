"""Links of payments, what an invoice still owes, and the statuses `closed` and `lost`.

The new columns have constant defaults, and the check is validated while everybody can write, so no lock is long. The
backfill of payments (sinks/postgres/payment_backfill.py) gives stored rows their links and statuses. The worker also
does so with each row that it changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from sinks.postgres.migrations import online

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_STATUSES = ("pending", "succeeded", "failed", "refunded", "closed", "lost")


def upgrade() -> None:
    op.create_table(
        "payment_links",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.CheckConstraint("kind in ('invoice', 'session', 'intent', 'charge')", name="kind_known"),
        sa.PrimaryKeyConstraint("account", "stripe_id"),
        schema="billing",
        if_not_exists=True,
    )
    op.create_index("payment_links_payment", "payment_links", ["payment_id"], schema="billing", if_not_exists=True)
    remaining = sa.Column("amount_remaining", sa.BigInteger(), nullable=True)
    op.add_column("payments", remaining, schema="billing", if_not_exists=True)
    for name in ("owed", "credits", "disputes"):
        column = sa.Column(name, postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
        op.add_column("payments", column, schema="billing", if_not_exists=True)
    listed = ", ".join(f"'{status}'" for status in _STATUSES)
    online.replace_check("status_known", "payments", f"status in ({listed})")
