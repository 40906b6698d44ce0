"""A dispatcher that starts on an empty database finds each row by an index, also before the first ANALYZE."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from ops.processes.dispatcher import call_dispatcher, exporter, feed_dispatcher, mail_dispatcher, mail_parts
from ops.processes.gateway import links
from schemas.settings import Config, Mail, Settings
from schemas.timing import utc_now
from sinks.email.checks import CHECKS
from sinks.email.metrics import MailMetrics
from sinks.email.outbox import MailOutbox
from sinks.email.truth import MailTruth
from sinks.email.unsubscribe import Unsubscriptions
from sinks.exports.archive import write_archive
from sinks.exports.orders import ExportOrders
from sinks.feed.notifications import Notifications
from sinks.outbox.claims import Claims
from sinks.outbox.loop import OutboxLoop
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.outboxes import Outbox
from sinks.postgres.planning import KEPT_PLANS
from sinks.postgres.pool import Session, make_pool
from sinks.stripe_calls.calls import Calls
from tests.kits.bigkit import fill, rows_read
from tests.kits.mailkit import queued_sample
from tests.kits.storekit import ask

_AGAIN = timedelta(minutes=1)
_AT_MOST = 1_500
"""Rows of one table that all statements together may read. The tables have at least 2,000."""
_READ = f"""
SELECT coalesce(string_agg(relname || ': ' || seq_tup_read || ' and ' || idx_tup_fetch, ', '), '')
FROM pg_stat_user_tables WHERE schemaname = 'billing' AND (seq_tup_read > {_AT_MOST} OR idx_tup_fetch > {_AT_MOST})
"""


async def _cycle(claims: Claims[Any]) -> None:
    """Do once what a dispatcher does with rows."""
    await claims.has_due()
    await claims.depth()
    rows = await claims.claim(5)
    if rows:
        assert len(rows) == 5
        kept = [
            await claims.done(rows[0], {}),
            await claims.retry(rows[1], _AGAIN, "later"),
            await claims.give_back(rows[2], _AGAIN, None),
            await claims.fail(rows[3], "refused"),
            await claims.withhold(rows[4], "no longer true"),
        ]
        assert kept == [True] * 5


async def _queue(database: SecretStr, outbox: Outbox) -> None:
    """Queue the oldest five rows again, each of a customer of its own."""
    of_oldest = f"SELECT {outbox.key} FROM billing.{outbox.name} ORDER BY {outbox.since} LIMIT 5"
    await ask(
        database,
        f"UPDATE billing.{outbox.name} SET status = 'queued', next_attempt_at = now(), customer_id = {outbox.key} "
        f"WHERE {outbox.key} IN ({of_oldest})",
    )


@pytest.mark.parametrize("kind", [MailOutbox, Calls, Notifications, ExportOrders])
async def test_claims_read_no_table_completely(
    kind: type[Claims[Any]], database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.postgres.pool.KEPT_S", 0.0)
    claims = await kind.connect(database, claimer="a", pool_size=1, keeps_plans=True)
    await _cycle(claims)
    await fill(database, shrunk=10, is_analyzed=False)
    await _queue(database, kind.queue.outbox)

    async def work(_: SecretStr) -> None:
        await _cycle(claims)
        await claims.close()

    assert await rows_read(database, work, _READ) == ""


async def test_checks_of_mails_read_no_table_completely(database: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each template's check."""
    monkeypatch.setattr("sinks.postgres.pool.KEPT_S", 0.0)
    outbox = await MailOutbox.connect(database, claimer="a", pool_size=1, keeps_plans=True)
    mails = [
        queued_sample(template, key=f"m:acct_1:{subject}_7", account="acct_1", customer_id="cus_7")
        for template in CHECKS
        for subject in ("in", "sub", "pm", "dp")
    ]
    truth = MailTruth(Mail(send_test_mode=True))

    async def check(_: SecretStr | None = None) -> None:
        async with outbox.connection() as connection:
            answers = await truth(mails, connection)
        assert not [answer for answer in answers if isinstance(answer, Exception)]

    async def work(url: SecretStr) -> None:
        await check(url)
        await outbox.close()

    await check()
    await fill(database, shrunk=10, is_analyzed=False)
    for table in ("customers", "subscriptions", "payments", "payment_methods", "emails", "timers", "events"):
        await ask(database, f"UPDATE billing.{table} SET account = 'acct_1'")
    assert await rows_read(database, work, _READ) == ""


async def _planning(connection: Any) -> list[str]:
    return [await connection.fetchval(f"SHOW {name}") for name in KEPT_PLANS]


async def test_an_archive_is_planned_as_on_any_connection(database: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its conditions over all tables need other plans than the exporter's claims, on the same connection."""
    fetchval: Any = Session.fetchval
    seen: list[list[str]] = []

    async def noting(session: Session, query: str, *args: Any, **options: Any) -> Any:
        if "alembic_version" in query:  # the archive's transaction has begun
            seen.append([await fetchval(session, f"SHOW {name}") for name in KEPT_PLANS])
        return await fetchval(session, query, *args, **options)

    monkeypatch.setattr(Session, "fetchval", noting)
    plain = await make_pool(database, application="test", max_size=1)
    keeping = await ExportOrders.connect(database, claimer="a", pool_size=1, keeps_plans=True)
    async with plain.acquire() as elsewhere, keeping.connection() as connection:
        usual, kept = await _planning(elsewhere), await _planning(connection)
        await write_archive(
            connection, io.BytesIO(), PayloadArchive(""), account="", customer_id="cus_1", organization_id="org_1"
        )
        assert (await _planning(connection), kept) == (kept, list(KEPT_PLANS.values()))
    assert seen == [usual]
    assert usual != kept
    await keeping.close()
    await plain.close()


async def test_dispatchers_keep_plans_and_links_do_not(database: SecretStr, tmp_path: Path, topic_prefix: str) -> None:
    settings = Settings(
        kafka_bootstrap="127.0.0.1:9",
        database_url=database,
        config_path=Path("unused"),
        topic_prefix=topic_prefix,
        exports_url=str(tmp_path),
        link_secret=SecretStr("c81f0d4b6e2a9735f4d07b8c1e5a3926"),
        smtp_url=SecretStr("smtp://127.0.0.1:9"),
    )
    config, asked = Config(), "SHOW plan_cache_mode"
    server, composer = mail_parts(settings, config)
    async with (
        links(settings, config) as served,
        mail_dispatcher(settings, config, server, composer, MailMetrics(), "a") as mails,
        exporter(settings, CollectorRegistry(), claimer="a", clock=utc_now) as exports,
        call_dispatcher(settings, config, CollectorRegistry(), claimer="a", clock=utc_now) as calls,
        feed_dispatcher(settings, config, CollectorRegistry(), claimer="a", clock=utc_now) as feed,
    ):
        assert served is not None
        assert isinstance(served.unsubscriptions, Unsubscriptions)
        running: list[OutboxLoop[Any]] = [mails, exports, calls, feed]
        found = [await one._claims.pool.fetchval(asked) for one in running]
        assert found == ["force_generic_plan"] * 4
        assert await served.unsubscriptions._pool.fetchval(asked) == "auto"
