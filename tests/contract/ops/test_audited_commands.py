"""K403: a command that acts leaves one entry in the audit log, in the transaction of its action."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from ops.cli import command_line
from ops.runtime.operator import operator
from schemas.errors import StoreUnavailable
from sinks.email.outbox import MailOutbox
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.audited import recorded
from sinks.postgres.brakes import Brakes
from sinks.postgres.outboxes import OutboxRow
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from tests.kits.storekit import ask, dead_letter_row, email_row, known, write

Billing = Callable[..., Result]

LETTER = dead_letter_row(consumer_group="billing.worker")


async def entries(url: SecretStr) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url.get_secret_value())
    try:
        rows = await connection.fetch("SELECT * FROM billing.audit_log ORDER BY entry_id")
    finally:
        await connection.close()
    return [dict(row) | {"filter": orjson.loads(row["filter"])} for row in rows]


@pytest.fixture
def filled(migrated_url: str) -> SecretStr:
    async def fill() -> SecretStr:
        url = SecretStr(migrated_url)
        store = await Store.connect(url, pool_size=1)
        mails: list[OutboxRow] = [email_row(f"m_{n}", status="failed") for n in range(3)]
        await write(store, Flush(known(), outbox=mails, dead_letters=[LETTER]))
        await store.close()
        await Brakes(url).trip("billing.worker", "50 died", ["boom"], "1")
        call = (
            "INSERT INTO billing.stripe_calls (call_key, event_id, method, path, status, queued_at, next_attempt_at) "
        )
        await ask(url, call + "VALUES ('c_1', 'evt_1', 'POST', '/v1/x', 'failed', now(), now())")
        export = (
            "INSERT INTO billing.exports (export_key, event_id, customer_id, organization_id, status, requested_at, "
            "next_attempt_at, expires_at) VALUES ('x_1', 'evt_1', 'cus_1', 'org_1', 'failed', now(), now(), now())"
        )
        await ask(url, export)
        return url

    return asyncio.run(fill())


@pytest.fixture
def billing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filled: SecretStr) -> Billing:
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("BILLING_CONFIG", str(tmp_path / "billing.toml"))
    monkeypatch.setenv("BILLING_DATABASE_URL", filled.get_secret_value())
    return lambda *words: CliRunner().invoke(command_line(words[:1]), words)


def test_K403_each_action_in_postgres_leaves_one_entry(billing: Billing, filled: SecretStr) -> None:
    me = operator()
    for words, action, count, chosen in (
        (["mail", "requeue", "m_0"], "mail.requeue", 1, {"keys": ["m_0"]}),
        (["mail", "discard", "--all", "--limit", "9"], "mail.discard", 3, {"all": True, "limit": 9}),
        (["calls", "requeue", "c_1"], "calls.requeue", 1, {"keys": ["c_1"]}),
        (["exports", "requeue", "--all"], "exports.requeue", 1, {"all": True, "limit": 1000}),
        (["dead", "discard", "--id", "evt_dead"], "dead.discard", 1, None),
        (["brake", "release", "--let-die", "7"], "brake.release", 1, {"let_die": 7}),
    ):
        before = asyncio.run(entries(filled))
        done = billing(*words)
        assert done.exit_code == 0, done.output
        (entry,) = asyncio.run(entries(filled))[len(before) :]
        assert (entry["action"], entry["who"], entry["role"]) == (action, me, "cli")
        assert (entry["count"], entry["outcome"]) == (count, "done")
        if chosen is not None:
            assert entry["filter"] == chosen
    assert asyncio.run(entries(filled))[-1]["target"] == "billing.worker"


def test_what_changes_nothing_leaves_no_entry(billing: Billing, filled: SecretStr) -> None:
    for words in (["mail", "requeue", "typo"], ["calls", "requeue", "typo"], ["dead", "discard", "--id", "typo"]):
        assert billing(*words).exit_code == 1
    assert asyncio.run(entries(filled)) == []


async def test_an_action_that_is_rolled_back_leaves_no_entry(database: SecretStr) -> None:
    await ask(
        database,
        "INSERT INTO billing.emails (email_key, event_id, template, status, queued_at, next_attempt_at) "
        "VALUES ('m_1', 'evt_1', 'win-back', 'failed', now(), now())",
    )
    await ask(database, "ALTER TABLE billing.audit_log ADD CONSTRAINT broken CHECK (action <> 'mail.requeue')")
    outbox = await MailOutbox.connect(database, claimer="test", pool_size=1)
    entry = AuditEntry(who="jane", action="mail.requeue")
    with pytest.raises(Exception, match="check constraint"):
        await outbox.requeue(keys=["m_1"], entry=entry)
    await outbox.close()
    assert await ask(database, "SELECT status FROM billing.emails") == "failed"
    assert await entries(database) == []


async def test_an_action_elsewhere_is_recorded_before_it_begins_and_completed_after_it(database: SecretStr) -> None:
    entry = AuditEntry(who="jane", action="dead.replay", target="evt_1")
    async with recorded(database, entry) as noted:
        (begun,) = await entries(database)
        assert begun["outcome"] == "begun"
        noted.count = 3
    (done,) = await entries(database)
    assert (done["outcome"], done["count"], done["reason"]) == ("done", 3, None)

    with pytest.raises(StoreUnavailable, match="away"):
        async with recorded(database, entry):
            raise StoreUnavailable("Kafka is away, says jane@example.com")
    failed = (await entries(database))[-1]
    assert failed["outcome"] == "failed"
    assert "jane@example.com" not in failed["reason"]

    with pytest.raises(LookupError):
        async with recorded(database, entry, refused=(LookupError,)):
            raise LookupError("another one is running")
    assert (await entries(database))[-1]["outcome"] == "refused"
