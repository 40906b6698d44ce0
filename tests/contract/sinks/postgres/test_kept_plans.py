"""A dispatcher that starts on an empty database finds each row by an index, also before the first ANALYZE."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.settings import Mail
from sinks.email.checks import CHECKS
from sinks.email.outbox import MailOutbox
from sinks.email.truth import MailTruth
from sinks.exports.orders import ExportOrders
from sinks.feed.notifications import Notifications
from sinks.outbox.claims import Claims
from sinks.postgres.outboxes import Outbox
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
    claims = await kind.connect(database, claimer="a", pool_size=1)
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
    outbox = await MailOutbox.connect(database, claimer="a", pool_size=1)
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
