"""Fills a database as years of traffic leave it: mostly settled rows, in proportions of a real installation."""

from __future__ import annotations

import asyncpg
from pydantic import SecretStr

PLAIN, TIMERS, EVENTS, FINISHED = "plain", "timers", "events", "finished"
SPECIAL = (PLAIN, TIMERS, EVENTS, FINISHED)
"""Customers `cus_{name}0`: an ordinary one; one with open timers; one with many events; one with finished timers."""
OPEN_TIMERS, OWN_EVENTS, FINISHED_TIMERS = 500, 20_000, 20_000
_WITHIN_S = 3600.0

# For one of $1 events: so many rows of each table. `n` counts from 1, one minute of age each.
_AGE = "now() - n * interval '1 min'"
_TABLES: tuple[tuple[float, str], ...] = (
    (
        1,
        """billing.events (event_id, type, stream, customer_id, account, livemode, created, received_at, applied_at,
            outcome, partition, "offset", attempts, payload)
        SELECT 'evt_year_' || n, 'invoice.paid', 'invoices', 'cus_year_' || n % {customers}, '', false, {age}, {age},
            {age}, CASE WHEN n % 1000 = 0 THEN 'dead' ELSE 'applied' END, n % 12, n, 1,
            jsonb_build_object('id', 'evt_year_' || n, 'type', 'invoice.paid',
                'reference', repeat(md5(n::text), 16))""",
    ),
    (
        0.4,
        """billing.emails (email_key, event_id, account, customer_id, template, status, queued_at, next_attempt_at)
        SELECT 'm_year_' || n, 'evt_year_' || n, '', 'cus_year_' || n % {customers}, 'payment-receipt',
            CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'sent' END, {age}, {age}""",
    ),
    (
        0.4,
        """billing.payments (payment_id, account, invoice_id, charge_id, customer_id, amount, currency, status)
        SELECT 'pay_year_' || n, '', 'in_year_' || n, 'ch_year_' || n, 'cus_year_' || n % {customers}, 1000, 'eur',
            'succeeded'""",
    ),
    (
        0.1,
        """billing.timers (timer_key, account, customer_id, kind, subject, due_at, status, event_id)
        SELECT 't_year_' || n, '', 'cus_year_' || n % {customers}, 'dunning', 's',
            now() + (CASE WHEN n % 25 = 0 THEN 1 ELSE -1 END) * n * interval '1 min',
            CASE WHEN n % 25 = 0 THEN 'pending' ELSE 'done' END, 'evt_year_' || n""",
    ),
    (
        0.06,
        """billing.customers (account, customer_id, email, name)
        SELECT '', 'cus_year_' || n, n || '@example.com', 'Ada ' || n""",
    ),
    (
        0.06,
        """billing.organizations (organization_id, account, customer_id, name, status)
        SELECT 'org_year_' || n, '', 'cus_year_' || n, 'Ada ' || n, 'active'""",
    ),
    (
        0.06,
        """billing.subscriptions (account, subscription_id, customer_id, status)
        SELECT '', 'sub_year_' || n, 'cus_year_' || n, 'active'""",
    ),
    (
        0.06,
        """billing.payment_methods (account, payment_method_id, customer_id)
        SELECT '', 'pm_year_' || n, 'cus_year_' || n""",
    ),
    (
        0.06,
        """billing.stripe_calls (call_key, event_id, account, customer_id, method, path, status, queued_at,
            next_attempt_at)
        SELECT 'c_year_' || n, 'evt_year_' || n, '', 'cus_year_' || n, 'POST', '/x',
            CASE WHEN n % 5000 = 0 THEN 'failed' ELSE 'done' END, {age}, {age}""",
    ),
    (
        0.005,
        """billing.dead_letters (consumer_group, topic, partition, "offset", event_id, customer_id, stage, error_class,
            message, first_failed_at, last_failed_at, status)
        SELECT 'g', 't', n % 12, n, 'evt_year_' || n, 'cus_year_' || n, 'rule', 'E', 'm', {age}, {age},
            CASE WHEN n % 5 = 0 THEN 'open' ELSE 'resolved' END""",
    ),
    (
        0.6,
        """analytics.payments (account, livemode, owner, subject, at, kind, currency, amount, day)
        SELECT '', false, 'cus_year_' || n % {customers}, 'in_year_' || n, {age}, 'invoice', 'eur', 1000,
            ({age})::date""",
    ),
    (
        0.06,
        """analytics.payment_totals (account, livemode, owner, currency, payments, amount, unpaid, unpaid_amount,
            refunded)
        SELECT '', false, 'cus_year_' || n, 'eur', 10, 10000, 0, 0, 0""",
    ),
    (
        0.04,
        """analytics.recoveries (account, livemode, owner, invoice_id, currency, amount, attempts, first_failed_at,
            step, outcome, ended_at, seconds)
        SELECT '', false, 'cus_year_' || n % {customers}, 'in_year_' || n, 'eur', 1000, 2, {age}, 'payment-failed',
            CASE WHEN n % 100 = 0 THEN 'open' WHEN n % 4 = 0 THEN 'lost' ELSE 'recovered' END, {age}, 86400""",
    ),
    (
        0.04,
        """analytics.risks (account, livemode, owner, subscription_id, began_at, currency, mrr, outcome)
        SELECT '', false, 'cus_year_' || n % {customers}, 'sub_year_' || n, {age}, 'eur', 1000,
            CASE WHEN n % 100 = 0 THEN 'open' ELSE 'recovered' END""",
    ),
    (
        0.12,
        """analytics.movements (account, livemode, owner, currency, at, plan, kind, amount, day)
        SELECT '', false, 'cus_year_' || n, 'eur', {age}, 'pro', 'new', 1000, ({age})::date""",
    ),
)
_SPECIAL = (
    (
        OPEN_TIMERS,
        """billing.timers (timer_key, account, customer_id, kind, subject, due_at, status, event_id)
        SELECT 't_timers_' || n, '', 'cus_timers0', 'dunning-reminder', 'in_timers_' || n,
            now() + interval '9 days', 'pending', 'evt_x'""",
    ),
    (
        FINISHED_TIMERS,
        """billing.timers (timer_key, account, customer_id, kind, subject, due_at, status, event_id)
        SELECT 't_finished_' || n, '', 'cus_finished0', 'dunning-reminder', 'in_finished_' || n, {age},
            'done', 'evt_x'""",
    ),
    (
        OWN_EVENTS,
        """billing.events (event_id, type, stream, customer_id, account, livemode, created, received_at, applied_at,
            outcome, partition, "offset", attempts, payload)
        SELECT 'evt_own_' || n, 'invoice.paid', 'invoices', 'cus_events0', '', false, {age}, {age}, {age}, 'applied',
            1, n, 1, '{{}}'""",
    ),
)


async def fill(url: SecretStr, events: int) -> None:
    """Add `events` events and what belongs to them to a migrated database, and the special customers."""
    connection = await asyncpg.connect(url.get_secret_value())
    customers = max(1, int(events * 0.06))
    try:
        await connection.execute("SET synchronous_commit = off")
        rows = [(max(1, int(events * share)), into) for share, into in _TABLES] + list(_SPECIAL)
        for count, into in rows:
            statement = f"INSERT INTO {into.format(customers=customers, age=_AGE)} FROM generate_series(1, {count}) n"
            await connection.execute(statement, timeout=_WITHIN_S)
        await connection.execute("VACUUM ANALYZE", timeout=_WITHIN_S)
    finally:
        await connection.close()
