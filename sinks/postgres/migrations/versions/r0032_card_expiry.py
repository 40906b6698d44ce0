"""An index for the cards that expire next."""

from __future__ import annotations

from sinks.postgres.migrations import online

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = "detached_at IS NULL"
    online.create_index("payment_methods_expiry", "payment_methods", ["exp_year", "exp_month"], where=where)
