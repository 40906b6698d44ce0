"""MRR after discounts, pauses as movements of their own, and what is billed by usage.

Rows of earlier versions have no `list_amount`: their `amount` is the change before discounts. An owner's rows are
computed again with its next event, and all of them by `billing analytics recount`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sinks.postgres.migrations import online

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

_FACTS = ("subscription", "invoice_paid", "invoice_failed", "invoice_given_up", "purchase", "refund")
_MOVEMENTS = ("new", "expansion", "contraction", "churn", "reactivation")


def upgrade() -> None:
    op.add_column("movements", sa.Column("list_amount", sa.BigInteger()), schema="analytics", if_not_exists=True)
    op.create_table(
        "usage",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account", "livemode", "owner", "subscription_id"),
        schema="analytics",
        if_not_exists=True,
    )
    online.replace_check("kind_known", "facts", _allowed((*_FACTS, "discount")), schema="analytics")
    online.replace_check("kind_known", "movements", _allowed((*_MOVEMENTS, "pause", "resume")), schema="analytics")


def downgrade() -> None:
    # The facts are read from the log again by `billing analytics recount`.
    op.execute("DELETE FROM analytics.facts WHERE kind = 'discount'")
    op.execute("UPDATE analytics.movements SET kind = 'churn' WHERE kind = 'pause'")
    op.execute("UPDATE analytics.movements SET kind = 'reactivation' WHERE kind = 'resume'")
    op.drop_table("usage", schema="analytics")
    op.drop_column("movements", "list_amount", schema="analytics")
    online.replace_check("kind_known", "facts", _allowed(_FACTS), schema="analytics")
    online.replace_check("kind_known", "movements", _allowed(_MOVEMENTS), schema="analytics")


def _allowed(kinds: tuple[str, ...]) -> str:
    return f"kind in ({', '.join(repr(kind) for kind in kinds)})"
