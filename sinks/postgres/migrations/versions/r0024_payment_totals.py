"""The sums of each customer's payments, so that `billing mrr` does not read every payment.

`billing analytics` fills the table when it starts; until then `billing mrr` sums up the payments.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "payment_totals",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("payments", "amount", "unpaid", "unpaid_amount", "refunded")
        ),
        sa.PrimaryKeyConstraint("account", "livemode", "owner", "currency"),
        schema="analytics",
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("payment_totals", schema="analytics")
