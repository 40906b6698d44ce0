"""Columns that order events of one second, and an access view that knows several grace times (behaviours.md D2, B8)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_TABLES = ("customers", "payment_methods", "disputes")

VIEW = """
CREATE OR REPLACE VIEW billing.access AS
SELECT o.account, o.customer_id, c.user_id, o.organization_id,
    CASE WHEN later.passed > 0 THEN later.step->>'plan' ELSE o.plan END AS plan,
    CASE WHEN later.passed > 0 THEN later.step->'limits' ELSE o.limits END AS limits,
    CASE WHEN later.passed > 0 THEN (later.step->>'has_access')::boolean ELSE o.has_access END AS has_access,
    CASE WHEN later.passed > 0 THEN later.step->>'reason' ELSE o.access_reason END AS reason,
    CASE WHEN later.passed > 0 THEN (later.step->>'changes_at')::timestamptz
        ELSE o.access_changes_at END AS changes_at,
    o.access_version * 32 + least(later.passed, 31) AS version
FROM billing.organizations o
LEFT JOIN billing.customers c ON c.account = o.account AND c.customer_id = o.customer_id
CROSS JOIN LATERAL (
    SELECT count(*) AS passed, (array_agg(s.step ORDER BY s.at DESC))[1] AS step
    FROM (
        SELECT o.access_until AS at, o.access_after AS step
        UNION ALL
        SELECT (t.step->>'until')::timestamptz, t.step FROM jsonb_array_elements(o.access_after->'then') AS t (step)
    ) AS s
    WHERE s.at <= now()
) AS later
"""
"""Each version of the view is greater than that of the same row in the view of 0012, which doubled `access_version`."""


def upgrade() -> None:
    for table in _TABLES:
        column = sa.Column("newest", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False)
        op.add_column(table, column, schema="billing")
    op.execute(VIEW)
