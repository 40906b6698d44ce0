"""The outbox of notifications to the customer's application, and the receivers that fail (behaviours.md F3).

A trigger numbers the changes of a customer. Its number is at least the time in milliseconds, so that a database that
was restored to an earlier time continues above the numbers that receivers have seen already.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# Rows of one customer are inserted by one transaction at a time: that of the customer's partition.
NUMBER = """
CREATE FUNCTION billing.number_notification() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT n.version INTO NEW.version FROM billing.notifications n
    WHERE n.event_id = NEW.event_id AND n.message_id = NEW.message_id LIMIT 1;
    IF NEW.version IS NULL THEN
        SELECT greatest(max(n.version) + 1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
        INTO NEW.version FROM billing.notifications n
        WHERE n.account = NEW.account AND n.customer_id = NEW.customer_id;
    END IF;
    RETURN NEW;
END
$$
"""

NUMBER_TRIGGER = """
CREATE TRIGGER number_notification BEFORE INSERT ON billing.notifications FOR EACH ROW
EXECUTE FUNCTION billing.number_notification()
"""

_OPEN = "status IN ('queued', 'sending')"


def upgrade() -> None:
    op.create_table(
        "notifications",
        sa.Column("notification_key", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status in ('queued', 'sending', 'sent', 'failed', 'suppressed', 'withheld')", name="status_known"
        ),
        sa.PrimaryKeyConstraint("notification_key"),
        schema="billing",
    )
    _index("due", ["next_attempt_at"], _OPEN)
    _index("open", ["destination", "account", "customer_id"], _OPEN)
    _index("customer", ["account", "customer_id", "version"])
    _index("event", ["event_id"])
    _index("queued", ["queued_at"])
    _index("failed", ["queued_at"], "status = 'failed'")
    op.execute(NUMBER)
    op.execute(NUMBER_TRIGGER)
    op.create_table(
        "feed_destinations",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("destination"),
        schema="billing",
    )


def downgrade() -> None:
    op.drop_table("feed_destinations", schema="billing")
    op.drop_table("notifications", schema="billing")
    op.execute("DROP FUNCTION billing.number_notification()")


def _index(name: str, columns: list[str], where: str | None = None) -> None:
    condition = sa.text(where) if where is not None else None
    op.create_index(f"notifications_{name}", "notifications", columns, schema="billing", postgresql_where=condition)
