"""The audit log: a row in the action's own transaction, without anybody's address (sinks/postgres/audit_log.py)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import SecretStr

from schemas.ordering import guest_key
from sinks.postgres import audit_log
from sinks.postgres.audit_log import ActionOutcome, ActorRole, AuditEntry
from sinks.postgres.pool import Session, connect, make_engine

JANE = "Jane.Doe@Example.com"
ENTRY = AuditEntry(
    who="sam@ourcompany.example",
    action="customer.erase",
    target=JANE,
    filter={"email": JANE, "types": ("invoice.paid",), "since": datetime(2026, 3, 1, tzinfo=UTC), "error": None},
    count=3,
    reason=f"asked for by <{JANE}>\0 \ud800",
    peer="192.0.2.7",
)


async def rows(session: Session) -> list[dict[str, Any]]:
    found = await session.fetch("SELECT * FROM billing.audit_log ORDER BY entry_id")
    return [dict(row) | {"filter": orjson.loads(row["filter"])} for row in found]


async def test_an_entry_is_written_in_the_transaction_of_its_action_and_without_addresses(database: SecretStr) -> None:
    session = await connect(database, application="test")
    undone = session.transaction()
    await undone.start()
    await audit_log.record(session, ENTRY)
    await undone.rollback()
    assert await rows(session) == []
    async with session.transaction():
        entry_id = await audit_log.record(session, ENTRY)
    (row,) = await rows(session)
    key = guest_key("jane.doe@example.com")
    assert (row["entry_id"], row["who"], row["role"], row["count"]) == (entry_id, ENTRY.who, "cli", 3)
    assert (row["target"], row["outcome"], row["peer"]) == (key, "done", "192.0.2.7")
    assert row["filter"] == {"email": key, "types": ["invoice.paid"], "since": "2026-03-01T00:00:00+00:00"}
    assert row["reason"] == f"asked for by <{key}>\ufffd ?"
    await session.close()


async def test_an_action_outside_postgres_is_begun_and_then_completed(database: SecretStr) -> None:
    session, engine = await connect(database, application="test"), make_engine(database, application="test")
    begun = AuditEntry(who="nightly", role=ActorRole.SCHEDULE, action="replay", outcome=ActionOutcome.BEGUN)
    async with engine.begin() as connection:
        entry_id = await audit_log.record_in(connection, begun)
    assert [(row["outcome"], row["count"]) for row in await rows(session)] == [("begun", None)]
    async with engine.begin() as connection:
        await audit_log.complete_in(connection, entry_id, ActionOutcome.DONE, count=12)
        entry_id = await audit_log.record_in(connection, begun)
        await audit_log.complete_in(connection, entry_id, ActionOutcome.FAILED, count=1, note=f"no answer for {JANE}")
    await engine.dispose()
    done, failed = await rows(session)
    assert (done["outcome"], done["count"], done["reason"]) == ("done", 12, None)
    assert (failed["outcome"], failed["count"], failed["reason"]) == ("failed", 1, f"no answer for {guest_key(JANE)}")
    await session.close()


async def test_a_failure_is_added_to_the_operators_reason(database: SecretStr) -> None:
    session, engine = await connect(database, application="test"), make_engine(database, application="test")
    async with engine.begin() as connection:
        for reason in ("ticket 4711", "", "x" * 2000):
            entry = AuditEntry(who="sam", action="replay", outcome=ActionOutcome.BEGUN, reason=reason)
            entry_id = await audit_log.record_in(connection, entry)
            await audit_log.complete_in(connection, entry_id, ActionOutcome.FAILED, note="y" * 5000)
    await engine.dispose()
    why = "y" * 2000
    assert [row["reason"] for row in await rows(session)] == [f"ticket 4711; {why}", why, f"{'x' * 2000}; {why}"]
    await session.close()


async def test_a_filter_with_thousands_of_ids_is_cut(database: SecretStr) -> None:
    session = await connect(database, application="test")
    await audit_log.record(session, AuditEntry(who="sam", action="dead.replay", filter={"ids": ["evt_1"] * 9000}))
    (row,) = await rows(session)
    assert len(row["filter"]["cut"]) == 20_000
    await session.close()
