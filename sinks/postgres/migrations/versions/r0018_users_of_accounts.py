"""Users of accounts: the same user id under two accounts is two users. Versions of name, address and link; returns.

sinks/postgres/backfill.py gives the users of connected accounts their account.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from sinks.postgres.migrations import online

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    returned = sa.Column("returned_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("customers", returned, schema="billing", if_not_exists=True)
    address = sa.Column("address", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
    op.add_column("customers", address, schema="billing", if_not_exists=True)
    for name in ("name_version", "address_version", "linked_since"):
        op.add_column("customers", _version(name), schema="billing", if_not_exists=True)
    method = sa.Column("default_payment_method", sa.Text(), nullable=True)
    op.add_column("subscriptions", method, schema="billing", if_not_exists=True)
    op.add_column("users", _version("account"), schema="billing", if_not_exists=True)
    op.add_column("users", sa.Column("address_of", sa.Text(), nullable=True), schema="billing", if_not_exists=True)
    op.add_column("users", _version("address_since"), schema="billing", if_not_exists=True)
    online.create_index("customers_user", "customers", ["account", "user_id"], where="user_id IS NOT NULL")
    prefixes = ("charge.dispute", "review", "radar", "setup_intent", "refund")
    types = " OR ".join(f"type LIKE '{prefix}.%'" for prefix in prefixes)
    online.create_index("events_of_payments", "events", ["account", "type"], where=f"customer_id IS NULL AND ({types})")
    online.drop_index("events_of_charges")
    online.replace_primary_key("users", ["account", "user_id"])


def _version(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False)
