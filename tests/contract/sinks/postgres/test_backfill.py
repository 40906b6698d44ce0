"""Data migrations: in batches, resumable, on a system that is running; revisions that wait only shortly for a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from alembic import command
from pydantic import SecretStr
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from schemas.errors import StoreUnavailable
from sinks.postgres import backfill, migration, tables
from sinks.postgres.backfill import Backfill, open_backfills, run_backfills
from sinks.postgres.migration import migrate
from sinks.postgres.pool import Session, SessionTimeouts, connect, make_engine
from tests.kits.storekit import ask
from tests.waiting import eventually

LOWER = Backfill(
    name="0000_lower_types",
    table=tables.events,
    work="UPDATE billing.events e SET type = lower(e.type) FROM batch WHERE e.event_id = batch.event_id",
    where="t.type <> lower(t.type)",
)
LETTERS = Backfill(
    name="0000_letters",
    table=tables.dead_letters,
    work=(
        "UPDATE billing.dead_letters d SET stage = 'new' FROM batch b WHERE d.consumer_group = b.consumer_group "
        'AND d.topic = b.topic AND d."partition" = b."partition" AND d."offset" = b."offset"'
    ),
)


@asynccontextmanager
async def session(url: SecretStr) -> AsyncIterator[Session]:
    connection = await connect(url, application="test")
    try:
        yield connection
    finally:
        connection.terminate()


async def _events(url: SecretStr, number: int) -> None:
    await ask(
        url,
        "INSERT INTO billing.events (event_id, type, stream, outcome) "
        f"SELECT 'evt_' || n, 'A.B', 'x', 'applied' FROM generate_series(1, {number}) n",
    )


async def test_migrate_runs_them_once(database: SecretStr) -> None:
    await _events(database, 2500)
    ended = await migrate(database, backfills=[LOWER])
    assert ended.backfilled == {LOWER.name: 2500}
    assert await ask(database, "SELECT count(*) FROM billing.events WHERE type = 'a.b'") == 2500
    assert (await migrate(database, backfills=[LOWER])).backfilled == {}
    async with session(database) as connection:
        assert await open_backfills(connection, [LOWER]) == []


async def test_a_key_of_several_columns_of_several_types(database: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "BATCH", 7)
    await ask(
        database,
        'INSERT INTO billing.dead_letters (consumer_group, topic, partition, "offset", stage, error_class, message, '
        "first_failed_at, last_failed_at) SELECT 'g', 't', n % 12, n, 'old', 'E', 'm', now(), now() "
        "FROM generate_series(1, 100) n",
    )
    async with session(database) as connection:
        assert await run_backfills(connection, [LETTERS]) == {LETTERS.name: 100}
    assert await ask(database, "SELECT count(*) FROM billing.dead_letters WHERE stage = 'new'") == 100


async def test_it_continues_after_the_last_batch_when_it_was_killed(
    database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH", 100)
    await _events(database, 1000)
    async with session(database) as connection:
        task = asyncio.create_task(run_backfills(connection, [LOWER]))
        await eventually(lambda: ask(database, "SELECT sum(rows)::int FROM billing.backfills"))
        connection.terminate()
        done = await ask(database, "SELECT rows FROM billing.backfills WHERE name = $1", LOWER.name)
        with pytest.raises((StoreUnavailable, asyncpg.InterfaceError)):
            await task
    async with session(database) as connection:
        rest = await run_backfills(connection, [LOWER])
    assert 0 < done < 1000
    assert rest[LOWER.name] <= 1000 - done
    assert await ask(database, "SELECT rows FROM billing.backfills WHERE name = $1", LOWER.name) == 1000
    assert await ask(database, "SELECT count(*) FROM billing.events WHERE type = 'a.b'") == 1000


async def test_a_locked_row_is_waited_for_and_blocks_nothing_else(
    database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "_PAUSE_S", 0.05)
    await _events(database, 10)
    async with session(database) as holder, session(database) as connection:
        await connection.execute("SET lock_timeout = '100ms'")
        lock = holder.transaction()
        await lock.start()
        await holder.execute("SELECT FROM billing.events WHERE event_id = 'evt_5' FOR UPDATE")
        with capture_logs() as logs:
            task = asyncio.create_task(run_backfills(connection, [LOWER]))
            await eventually(lambda: _actions(logs).count("backfill.retry") >= 2, "two more tries")
        assert not task.done()
        await ask(database, "UPDATE billing.events SET reason = 'free' WHERE event_id = 'evt_9'")
        await lock.rollback()
        assert await task == {LOWER.name: 10}


def _actions(logs: Iterable[MutableMapping[str, Any]]) -> list[str]:
    return [str(entry.get("action")) for entry in logs]


async def _migrated_to(url: SecretStr, revision: str) -> None:
    """Run the revisions up to this one on an empty database, as an older version of this code did."""
    connection = await make_engine(url, application="test", own_session=True).connect()
    try:
        await connection.execute(text("CREATE SCHEMA billing"))
        await connection.commit()
        await connection.run_sync(_upgrade, revision)
        await connection.commit()
    finally:
        await connection.invalidate()
        await connection.close()


def _upgrade(connection: Connection, revision: str) -> None:
    config = migration.alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_a_revision_waits_shortly_for_its_lock_and_tries_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long reader must not make the migration stop all others: waiting for the lock, it blocks them."""
    monkeypatch.setattr(migration, "_BOUNDS", SessionTimeouts(statement_s=60, lock_s=0.2))
    monkeypatch.setattr(migration, "_LOCK_PAUSE_S", 0.1)
    database = SecretStr(database_url)
    await _migrated_to(database, "0006")
    async with session(database) as reader, session(database) as other:
        long_read = reader.transaction()
        await long_read.start()
        await reader.fetch("SELECT * FROM billing.payments")
        with capture_logs() as logs:
            task = asyncio.create_task(migrate(database, backfills=()))

            async def retried() -> bool:
                await other.fetch("SELECT * FROM billing.payments")
                return _actions(logs).count("migrate.retry") >= 3

            # A reader behind a migration that waits without a bound waits as long, and is cancelled here.
            await eventually(retried, "three tries while others read")
        assert not task.done()
        await long_read.rollback()
        assert (await task).before == "0006"
