"""The databases that tests share: a test finds nothing of the test before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests import databases as test_databases
from tests.databases import SCHEMA, MigratedDatabases

USER = "INSERT INTO billing.users (user_id, email) VALUES ('usr_1', 'ada@example.com')"
NEXT_ENTRY = "SELECT nextval(pg_get_serial_sequence('billing.audit_log', 'entry_id'))"
LEFT_OVERS = (
    "ALTER TABLE billing.users ALTER COLUMN email SET DEFAULT ''",
    "ALTER TABLE billing.users ADD COLUMN left_over int",
    "ALTER TABLE billing.users ADD CONSTRAINT left_over CHECK (true)",
    "ALTER TABLE billing.users RENAME TO left_over",
    "ALTER TABLE billing.notifications DISABLE TRIGGER ALL",
    "ALTER INDEX billing.users_pkey RENAME TO left_over",
    "CREATE INDEX left_over ON billing.users (email)",
    "DROP INDEX billing.emails_due",
    "CREATE TABLE left_over (id int)",
    "CREATE VIEW left_over AS SELECT 1 AS one",
    "CREATE FUNCTION left_over() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE OR REPLACE FUNCTION billing.number_notification() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE SCHEMA left_over",
    "GRANT SELECT ON billing.users TO pg_monitor",
    "GRANT USAGE ON SCHEMA billing TO pg_monitor",
    "GRANT CONNECT ON DATABASE {database} TO pg_monitor",
    "ALTER DATABASE {database} SET statement_timeout = '1s'",
    "ANALYZE billing.users",
)


@pytest.fixture
def databases(postgres_url: str) -> Iterator[MigratedDatabases]:
    opened = MigratedDatabases(postgres_url)
    yield opened
    opened.close()


async def test_rows_and_numbers_are_gone_in_the_next_test(databases: MigratedDatabases) -> None:
    url = databases.lend()
    connection = await asyncpg.connect(url)
    await connection.execute(USER)
    first = await connection.fetchval(NEXT_ENTRY)
    await connection.close()
    databases.take_back(url)

    assert databases.lend() == url
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM billing.users") == 0
        assert await connection.fetchval("SELECT count(*) FROM billing.alembic_version") == 1
        assert await connection.fetchval(NEXT_ENTRY) == first
    finally:
        await connection.close()


async def test_each_change_that_is_not_of_rows_shows(migrated_url: str) -> None:
    """A database that a test has changed so is dropped."""
    connection = await asyncpg.connect(migrated_url)
    try:
        await connection.execute(USER)
        before, unseen = await connection.fetchval(SCHEMA), []
        for statement in LEFT_OVERS:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(statement.format(database=migrated_url.rpartition("/")[2]))
            unseen += [statement] if await connection.fetchval(SCHEMA) == before else []
            await transaction.rollback()
        assert unseen == []
        await connection.execute("TRUNCATE billing.users")
        assert await connection.fetchval(SCHEMA) == before
    finally:
        await connection.close()


async def test_a_database_in_which_more_has_changed_than_rows_is_not_lent_again(databases: MigratedDatabases) -> None:
    """The schema, what the migrations stored, or a session that is still open."""
    lent = set()
    for statement in ("CREATE TABLE left_over (id int)", "UPDATE billing.alembic_version SET version_num = '0000'"):
        lent.add(url := databases.lend())
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()
        databases.take_back(url)
    lent.add(url := databases.lend())
    connection = await asyncpg.connect(url)
    try:
        databases.take_back(url)
        assert databases.lend() not in lent
        assert len(lent) == 3
    finally:
        connection.terminate()


async def test_a_sequence_from_which_the_migrations_took_numbers_goes_on_after_them(
    databases: MigratedDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No migration does so yet; the template of this test has one that did."""
    copy = test_databases.copy_template

    async def copy_and_take_a_number(connection: Any, server_url: str, name: str) -> None:
        await copy(connection, server_url, name)
        copied = await asyncpg.connect(urlunsplit(urlsplit(server_url)._replace(path=f"/{name}")))
        await copied.execute(NEXT_ENTRY)
        await copied.close()

    monkeypatch.setattr(test_databases, "copy_template", copy_and_take_a_number)
    url, given = databases.lend(), []
    for _ in range(2):
        connection = await asyncpg.connect(url)
        given += [await connection.fetchval(NEXT_ENTRY) for _ in range(2)]
        await connection.close()
        databases.take_back(url)
        assert databases.lend() == url
    assert given == [2, 3, 2, 3]
