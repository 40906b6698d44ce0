"""Items, scheduled ends and Stripe's own status of subscriptions; the access of organizations and its view.

sinks/postgres/access_backfill.py gives stored rows the new columns.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_TEXTS = ("stripe_status", "latest_invoice", "cancellation_reason", "pause_collection", "failed_invoice")
_TIMES = ("cancel_at", "resumes_at")
_OBJECTS = ("invoices", "price_changes", "newest")

# Another organization's row is not changed, so the function needs no more rights than its caller.
COUNT_ACCESS = """
CREATE FUNCTION billing.count_access() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.access_version := OLD.access_version + 1;
    RETURN NEW;
END
$$
"""

_SHOWN = ("plan", "limits", "has_access", "access_reason", "access_changes_at", "access_until", "access_after")

COUNT_ACCESS_TRIGGER = f"""
CREATE TRIGGER count_access BEFORE UPDATE ON billing.organizations FOR EACH ROW
WHEN (({", ".join(f"OLD.{name}" for name in _SHOWN)}) IS DISTINCT FROM ({", ".join(f"NEW.{name}" for name in _SHOWN)}))
EXECUTE FUNCTION billing.count_access()
"""

VIEW = """
CREATE VIEW billing.access AS
SELECT o.account, o.customer_id, c.user_id, o.organization_id,
    CASE WHEN later.applies THEN o.access_after->>'plan' ELSE o.plan END AS plan,
    CASE WHEN later.applies THEN o.access_after->'limits' ELSE o.limits END AS limits,
    CASE WHEN later.applies THEN (o.access_after->>'has_access')::boolean ELSE o.has_access END AS has_access,
    CASE WHEN later.applies THEN o.access_after->>'reason' ELSE o.access_reason END AS reason,
    CASE WHEN later.applies THEN (o.access_after->>'changes_at')::timestamptz
        ELSE o.access_changes_at END AS changes_at,
    o.access_version * 2 + later.applies::integer AS version
FROM billing.organizations o
LEFT JOIN billing.customers c ON c.account = o.account AND c.customer_id = o.customer_id
CROSS JOIN LATERAL (SELECT coalesce(o.access_until <= now(), false)) AS later (applies)
"""


def upgrade() -> None:
    for name in _TEXTS:
        op.add_column("subscriptions", sa.Column(name, sa.Text(), nullable=True), schema="billing")
    for name in _TIMES:
        op.add_column("subscriptions", sa.Column(name, sa.DateTime(timezone=True), nullable=True), schema="billing")
    for name in _OBJECTS:
        op.add_column("subscriptions", _object(name), schema="billing")
    items = sa.Column("items", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False)
    op.add_column("subscriptions", items, schema="billing")
    pending: sa.Column[bool] = sa.Column(
        "pending_update", sa.Boolean(), server_default=sa.text("false"), nullable=False
    )
    op.add_column("subscriptions", pending, schema="billing")
    version = sa.Column("items_version", sa.Text(), server_default=sa.text("''"), nullable=False)
    op.add_column("subscriptions", version, schema="billing")

    access: sa.Column[bool] = sa.Column("has_access", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    op.add_column("organizations", access, schema="billing")
    reason = sa.Column("access_reason", sa.Text(), server_default=sa.text("''"), nullable=False)
    op.add_column("organizations", reason, schema="billing")
    for name in ("access_changes_at", "access_until"):
        op.add_column("organizations", sa.Column(name, sa.DateTime(timezone=True), nullable=True), schema="billing")
    op.add_column("organizations", _object("access_after"), schema="billing")
    counted = sa.Column("access_version", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    op.add_column("organizations", counted, schema="billing")
    op.execute(COUNT_ACCESS)
    op.execute(COUNT_ACCESS_TRIGGER)
    op.execute(VIEW)
    # Rows of earlier revisions have no access until the backfill has derived it. The worker derives it with any event.


def _object(name: str) -> sa.Column[object]:
    return sa.Column(name, postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
