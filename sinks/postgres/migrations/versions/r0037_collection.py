"""How a subscription is collected, and what happens if its trial ends without a payment method.

Both are null until the next event of the subscription, which means that they are not known.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

_COLUMNS = ("collection_method", "trial_end_behavior")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("subscriptions", sa.Column(name, sa.Text(), nullable=True), schema="billing")


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("subscriptions", name, schema="billing")
