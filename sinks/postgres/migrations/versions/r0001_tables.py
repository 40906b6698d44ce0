"""Schema `billing` as it began: ledger, state, outboxes, timers, dead letters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("livemode", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("source", sa.Text(), server_default=sa.text("'stripe'"), nullable=False),
        sa.Column("api_version", sa.Text(), nullable=True),
        sa.Column("endpoint", sa.Text(), nullable=True),
        sa.Column("partition", sa.Integer(), nullable=True),
        sa.Column("offset", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("payload", postgresql.JSONB(), nullable=True),
        sa.CheckConstraint("outcome in ('applied', 'ignored', 'stale', 'waiting', 'dead')", name="outcome_known"),
        sa.PrimaryKeyConstraint("event_id"),
        schema="billing",
    )
    op.create_index("events_customer", "events", ["account", "customer_id", "created"], unique=False, schema="billing")
    op.create_index(
        "events_open",
        "events",
        ["outcome", "received_at"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("outcome in ('waiting', 'dead')"),
    )
    op.create_table(
        "customers",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("default_payment_method", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("profile_version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("user_version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("account", "customer_id"),
        schema="billing",
    )
    op.create_table(
        "organizations",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("billing_email", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("billing_status", sa.Text(), nullable=True),
        sa.Column("plan", sa.Text(), nullable=True),
        sa.Column("limits", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("next_billing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status in ('active', 'trialing', 'payment_failed', 'paused', 'incomplete', 'cancelled')",
            name="status_known",
        ),
        sa.PrimaryKeyConstraint("organization_id"),
        sa.UniqueConstraint("account", "customer_id"),
        schema="billing",
    )
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("user_id"),
        schema="billing",
    )
    op.create_table(
        "memberships",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "user_id"),
        schema="billing",
    )
    op.create_index("memberships_user", "memberships", ["user_id"], unique=False, schema="billing")
    op.create_table(
        "subscriptions",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("price_id", sa.Text(), nullable=True),
        sa.Column("first_price_id", sa.Text(), nullable=True),
        sa.Column("checkout_plan", sa.Text(), nullable=True),
        sa.Column("plan", sa.Text(), nullable=True),
        sa.Column("quantity", sa.BigInteger(), nullable=True),
        sa.Column("unit_amount", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("interval", sa.Text(), nullable=True),
        sa.Column("interval_count", sa.Integer(), nullable=True),
        sa.Column("current_period_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("current_period_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trial_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_at_period_end", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("canceled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("payment_failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("payment_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("first_version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("status_version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("billing_version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("checkout_version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint(
            "status in ('incomplete', 'incomplete_expired', 'trialing', 'active', "
            "'past_due', 'canceled', 'unpaid', 'paused')",
            name="status_known",
        ),
        sa.PrimaryKeyConstraint("account", "subscription_id"),
        schema="billing",
    )
    op.create_index(
        "subscriptions_customer", "subscriptions", ["account", "customer_id"], unique=False, schema="billing"
    )
    op.create_table(
        "payments",
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=True),
        sa.Column("checkout_session_id", sa.Text(), nullable=True),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("subscription_id", sa.Text(), nullable=True),
        sa.Column("payment_intent_id", sa.Text(), nullable=True),
        sa.Column("charge_id", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("attempt_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("first_failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refunded_amount", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("on_hold", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("fulfilled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint("status in ('pending', 'succeeded', 'failed', 'refunded')", name="status_known"),
        sa.PrimaryKeyConstraint("payment_id"),
        sa.UniqueConstraint("account", "checkout_session_id"),
        sa.UniqueConstraint("account", "invoice_id"),
        schema="billing",
    )
    op.create_index("payments_charge", "payments", ["account", "charge_id"], unique=False, schema="billing")
    op.create_index("payments_customer", "payments", ["account", "customer_id"], unique=False, schema="billing")
    op.create_index(
        "payments_payment_intent", "payments", ["account", "payment_intent_id"], unique=False, schema="billing"
    )
    op.create_table(
        "payment_methods",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("payment_method_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("brand", sa.Text(), nullable=True),
        sa.Column("last4", sa.Text(), nullable=True),
        sa.Column("exp_month", sa.Integer(), nullable=True),
        sa.Column("exp_year", sa.Integer(), nullable=True),
        sa.Column("detached_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("account", "payment_method_id"),
        schema="billing",
    )
    op.create_index(
        "payment_methods_customer", "payment_methods", ["account", "customer_id"], unique=False, schema="billing"
    )
    op.create_table(
        "disputes",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("dispute_id", sa.Text(), nullable=False),
        sa.Column("charge_id", sa.Text(), nullable=True),
        sa.Column("payment_intent_id", sa.Text(), nullable=True),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("due_by", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("account", "dispute_id"),
        schema="billing",
    )
    op.create_index("disputes_charge", "disputes", ["account", "charge_id"], unique=False, schema="billing")
    op.create_table(
        "timers",
        sa.Column("timer_key", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("data", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.CheckConstraint("status in ('pending', 'fired', 'done', 'cancelled')", name="status_known"),
        sa.PrimaryKeyConstraint("timer_key"),
        schema="billing",
    )
    op.create_index("timers_customer", "timers", ["account", "customer_id"], unique=False, schema="billing")
    op.create_index(
        "timers_due",
        "timers",
        ["due_at"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "emails",
        sa.Column("email_key", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=True),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("livemode", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("data", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("status in ('queued', 'sending', 'sent', 'failed')", name="status_known"),
        sa.PrimaryKeyConstraint("email_key"),
        schema="billing",
    )
    op.create_index("emails_customer", "emails", ["account", "customer_id"], unique=False, schema="billing")
    op.create_index(
        "emails_due",
        "emails",
        ["next_attempt_at"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("status in ('queued', 'sending')"),
    )
    op.create_index("emails_event", "emails", ["event_id"], unique=False, schema="billing")
    op.create_table(
        "stripe_calls",
        sa.Column("call_key", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("livemode", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("params", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("purpose", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("status in ('queued', 'calling', 'done', 'failed')", name="status_known"),
        sa.PrimaryKeyConstraint("call_key"),
        schema="billing",
    )
    op.create_index(
        "stripe_calls_due",
        "stripe_calls",
        ["next_attempt_at"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("status in ('queued', 'calling')"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("consumer_group", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("stream", sa.Text(), nullable=True),
        sa.Column("account", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("first_failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code_version", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("dead_partition", sa.Integer(), nullable=True),
        sa.Column("dead_offset", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_by", sa.Text(), nullable=True),
        sa.CheckConstraint("status in ('open', 'replayed', 'resolved', 'discarded')", name="status_known"),
        sa.PrimaryKeyConstraint("consumer_group", "topic", "partition", "offset"),
        schema="billing",
    )
    op.create_index("dead_letters_event", "dead_letters", ["event_id"], unique=False, schema="billing")
    op.create_index(
        "dead_letters_open",
        "dead_letters",
        ["last_failed_at"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("status = 'open'"),
    )
