"""An index of the subscriptions with a price that no plan names, for the metric that counts them."""

from __future__ import annotations

from sinks.postgres.migrations import online

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    unknown = "plan IS NULL AND price_id IS NOT NULL"
    online.create_index("subscriptions_unknown_price", "subscriptions", ["price_id"], where=unknown)
