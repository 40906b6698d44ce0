"""A database with 200,000 events and the planner's statistics, and which of its big tables were read completely."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import SecretStr

from tests.kits.storekit import ask
from tests.waiting import eventually

MANY = 200_000
SOME = 50_000
_FILL = {
    "events": (
        MANY,
        "(event_id, type, stream, customer_id, created, received_at, applied_at, outcome, partition, \"offset\", "
        "payload) SELECT 'evt_' || n, 'invoice.paid', 'invoices', 'cus_' || n / 10, now(), "
        "now() - n * interval '1 min', now() - n * interval '1 min', "
        "CASE WHEN n % 1000 = 0 THEN 'dead' ELSE 'applied' END, n % 12, n, '{}'",
    ),
    "emails": (
        MANY,
        "(email_key, event_id, customer_id, template, status, queued_at, next_attempt_at) SELECT 'm_' || n, "
        "'evt_' || n, 'cus_' || n / 10, 'payment-receipt', CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'sent' END, "
        "now() - n * interval '1 min', now()",
    ),
    "timers": (
        MANY,
        "(timer_key, account, customer_id, kind, subject, due_at, status, event_id) SELECT 't_' || n, '', "
        "'cus_' || n / 10, 'k', 's', now() - n * interval '1 s', "
        "CASE WHEN n % 1000 = 0 THEN 'pending' ELSE 'done' END, 'evt_' || n",
    ),
    "payments": (
        SOME,
        "(payment_id, account, invoice_id, charge_id, customer_id, amount, currency, status) SELECT 'pay_' || n, '', "
        "'in_' || n, 'ch_' || n, 'cus_' || n, 1, 'eur', CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'succeeded' END",
    ),
    "customers": (SOME, "(account, customer_id, email, name) SELECT '', 'cus_' || n, n || '@example.com', 'Ada ' || n"),
    "subscriptions": (
        SOME,
        "(account, subscription_id, customer_id, status) SELECT '', 'sub_' || n, 'cus_' || n, 'active'",
    ),
    "stripe_calls": (
        SOME,
        "(call_key, event_id, customer_id, method, path, status, queued_at, next_attempt_at) SELECT 'c_' || n, "
        "'evt_' || n, 'cus_' || n, 'POST', '/x', CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'done' END, "
        "now() - n * interval '1 min', now()",
    ),
    "exports": (
        SOME,
        "(export_key, event_id, customer_id, organization_id, status, requested_at, next_attempt_at, expires_at) "
        "SELECT 'x_' || n, 'evt_' || n, 'cus_' || n, 'org_' || n, 'deleted', "
        "now() - n * interval '1 min', now(), now()",
    ),
    "dead_letters": (
        SOME,
        "(consumer_group, topic, partition, \"offset\", event_id, customer_id, stage, error_class, message, "
        "first_failed_at, last_failed_at, status) SELECT 'g', 't', n % 12, n, 'evt_' || n, 'cus_' || n, 'rule', 'E', "
        "'m', now(), now() - n * interval '1 min', CASE WHEN n % 1000 = 0 THEN 'open' ELSE 'resolved' END",
    ),
    "payment_methods": (
        SOME,
        "(account, payment_method_id, customer_id, exp_year, exp_month) SELECT '', 'pm_' || n, 'cus_' || n, "
        "2000 + n % 60, 1 + n % 12",
    ),
    "notifications": (
        20_000,
        "(notification_key, event_id, customer_id, destination, message_id, type, occurred_at, status, queued_at, "
        "next_attempt_at) SELECT 'n_' || n, 'evt_' || n, 'cus_' || n, 'd', 'msg_' || n, 'access.changed', now(), "
        "CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'sent' END, now() - n * interval '1 min', now()",
    ),
}  # fmt: skip
_FACTS = f"""
INSERT INTO analytics.facts (event_id, account, livemode, owner, kind, subject, created, rank, data)
SELECT 'evt_' || n, '', true, 'cus_' || n / 10, 'invoice_paid', 'in_' || n, now() - n * interval '1 min', 50,
    '{{"id": "in_1", "currency": "eur", "amount_due": 1}}' FROM generate_series(1, {SOME}) n
"""
_RISKS = """
INSERT INTO analytics.risks (account, livemode, owner, subscription_id, began_at, currency, mrr, outcome)
SELECT '', true, 'cus_' || n, 'sub_' || n, now(), 'eur', n, CASE WHEN n % 100 = 0 THEN 'open' ELSE 'lost' END
FROM generate_series(1, 5000) n
"""
_READ = f"""
SELECT coalesce(string_agg(relname || ': ' || seq_tup_read, ', '), '') FROM pg_stat_user_tables
WHERE (schemaname = 'billing' AND relname = ANY('{{{",".join(_FILL)}}}') OR relname = 'facts') AND seq_tup_read > 0
"""

_FILL_S = 120.0
"""Seconds that one table may take to be filled. With ten processes for two cores one took more than 30."""


async def fill(database: SecretStr, *, shrunk: int = 1, is_analyzed: bool = True) -> None:
    """Fills a migrated database: each table with a `shrunk`-th of its rows, and without statistics if so wished."""
    await ask(database, "ALTER TABLE billing.notifications DISABLE TRIGGER number_notification")  # ten times as fast
    for table, (rows, columns) in _FILL.items():
        await ask(
            database,
            f"INSERT INTO billing.{table} {columns} FROM generate_series(1, {rows // shrunk}) n",
            within_s=_FILL_S,
        )
    await ask(database, _FACTS, within_s=_FILL_S)
    await ask(database, _RISKS)
    await ask(database, "ALTER TABLE billing.notifications ENABLE TRIGGER number_notification")
    if is_analyzed:
        await ask(database, "ANALYZE", within_s=_FILL_S)


async def rows_read(url: SecretStr, work: Callable[[SecretStr], Awaitable[None]], reading: str = _READ) -> str:
    """Names the big tables that sequential scans have read, and the number of rows.

    `reading` is another query of Postgres' statistics. The sessions of `work` have to be closed at its end.
    """
    await ask(url, "SELECT pg_stat_reset()")
    await work(url)
    is_alone = (
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid())"
    )
    # A session reports its counts when it ends.
    await eventually(lambda: ask(url, is_alone))
    return str(await ask(url, reading))
