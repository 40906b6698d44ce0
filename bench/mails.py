"""Measures the CPU time of a mail in the dispatcher: to claim, check, render and send it, and to store the result."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import orjson

from bench.figures import Figures
from bench.place import BenchServers, Site
from bench.processes import RunFailed, answers, billing, cpu_seconds, running
from local.stack.ports import free_port, is_free
from local.waiting import eventually, wait_until
from sinks.email.samples import SAMPLES
from sinks.postgres.outboxes import EMAILS

ALONE = "a mail, dispatcher alone"
TEMPLATES = ("payment-receipt", "payment-failed", "plan-changed", "payment-urgent", "subscription-welcome")
"""Mails that are sent often. What three of them claim is checked in the rows of customer, payment or subscription."""
_WARM_UP = 500
_WITHIN_S = 300.0

# Customer n has an organization, a running subscription and a failed payment, and one mail of each template.
_ROWS = (
    """INSERT INTO billing.customers (account, customer_id, email, name)
    SELECT '', 'cus_' || n, 'customer' || n || '@example.com', 'Ada Number ' || n
    FROM generate_series($1::int, $2) n""",
    """INSERT INTO billing.organizations (organization_id, account, customer_id, name, status)
    SELECT 'org_' || n, '', 'cus_' || n, 'Number ' || n || ' Ltd', 'active' FROM generate_series($1::int, $2) n""",
    """INSERT INTO billing.subscriptions (account, subscription_id, customer_id, status, stripe_status)
    SELECT '', 'sub_' || n, 'cus_' || n, 'active', 'active' FROM generate_series($1::int, $2) n""",
    """INSERT INTO billing.payments (payment_id, account, invoice_id, customer_id, subscription_id, amount,
        amount_remaining, currency, status, attempt_count, failure_reason)
    SELECT ':in_' || n, '', 'in_' || n, 'cus_' || n, 'sub_' || n, 4900, 4900 + n % 400, 'eur', 'failed', 1,
        'The card has insufficient funds' FROM generate_series($1::int, $2) n""",
    """INSERT INTO billing.payment_links (account, stripe_id, payment_id, kind)
    SELECT '', 'in_' || n, ':in_' || n, 'invoice' FROM generate_series($1::int, $2) n""",
)
_MAILS = """
INSERT INTO billing.emails (email_key, event_id, account, customer_id, template, livemode, data, queued_at,
    next_attempt_at)
SELECT 'bench::' || CASE WHEN $3 LIKE 'payment-%' THEN 'in_' ELSE 'sub_' END || n || ':' || $3, 'evt_' || n, '',
    'cus_' || n, $3, false, $4::jsonb, now(), now()
FROM generate_series($1::int, $2) n
"""
_OPEN = "SELECT count(*) FROM billing.emails WHERE status IN ('queued', 'sending')"
_NOT_SENT = "SELECT max(last_error) FROM billing.emails WHERE status <> 'sent'"


async def mails(place: BenchServers, figures: Figures, rounds: int, count: int) -> None:
    """Queue `count` mails at once in each round, and measure the dispatcher until all are sent. Raises TooLate."""
    for _ in range(rounds):
        site = await place.site("mails")
        connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
        try:
            with dispatcher_of(site) as processes:
                await queue(connection, 1, _WARM_UP)
                await until_sent(connection)
                before = cpu_seconds(processes["dispatcher"])
                queued = await queue(connection, _WARM_UP + 1, _WARM_UP + max(1, count // len(TEMPLATES)))
                await until_sent(connection)
                spent = cpu_seconds(processes["dispatcher"]) - before
        finally:
            await connection.close()
        figures.add(ALONE, 1000 * spent / queued, "CPU ms")


async def queue(connection: asyncpg.Connection[asyncpg.Record], first: int, last: int) -> int:
    """Store customers `first` to `last` and queue one mail of each template for each. Returns the number of mails."""
    async with connection.transaction():
        for statement in _ROWS:
            await connection.execute(statement, first, last)
        for template in TEMPLATES:
            data = orjson.dumps(SAMPLES[template]).decode()
            await connection.execute(_MAILS, first, last, template, data)
        await connection.execute("SELECT pg_notify($1, '')", EMAILS.channel)
    return len(TEMPLATES) * (last - first + 1)


async def until_sent(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Wait until no mail is open. Raises TooLate, and RunFailed if one was not sent."""

    async def are_settled() -> bool:
        return bool(await connection.fetchval(_OPEN) == 0)

    await eventually(are_settled, "all mails to be sent", within_s=_WITHIN_S, every_s=0.2)
    if (reason := await connection.fetchval(_NOT_SENT)) is not None:
        raise RunFailed(f"a mail was not sent: {reason}")


@contextmanager
def dispatcher_of(site: Site) -> Iterator[dict[str, int]]:
    """Run a dispatcher and an SMTP server that accepts every mail. Yields their process ids by name."""
    smtp_port, ops_port, log = free_port(), free_port(), site.folder / "dispatcher.log"
    environment = site.environment(
        BILLING_SMTP_URL=f"smtp://127.0.0.1:{smtp_port}",
        BILLING_OPS_PORT=str(ops_port),
        BILLING_STATE_DIR=str(site.folder / "dispatcher"),
    )
    sink = [sys.executable, "-m", "bench.smtp_sink", str(smtp_port)]
    with running(sink, site.environment(), log) as smtp:
        wait_until(lambda: not is_free(smtp_port), "the SMTP server", within_s=30, process=smtp, log=log)
        with running(billing("dispatcher"), environment, log) as process:
            url = f"http://127.0.0.1:{ops_port}/readyz"
            wait_until(lambda: answers(url), "the dispatcher", within_s=30, process=process, log=log)
            yield {"dispatcher": process.pid, "SMTP server": smtp.pid}
