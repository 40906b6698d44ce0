"""The databases that tests share: a test finds nothing of the test before."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import pytest

from tests.databases import MigratedDatabases

_ROWS = (
    "INSERT INTO billing.organizations (organization_id, name) VALUES ('org_1', 'Acme')",
    "INSERT INTO billing.users (user_id, email) VALUES ('usr_1', 'ada@example.com')",
)
_LEFT_OVERS = {
    "column": "ALTER TABLE billing.users ALTER COLUMN email SET DEFAULT ''",
    "index": "CREATE INDEX left_over ON billing.users (email)",
    "dropped index": "DROP INDEX billing.{index}",
    "table": "CREATE TABLE left_over (id int)",
    "view": "CREATE VIEW left_over AS SELECT 1",
    "function": "CREATE FUNCTION left_over() RETURNS int LANGUAGE sql RETURN 1",
    "trigger": "ALTER TABLE billing.users DISABLE TRIGGER ALL",
    "constraint": "ALTER TABLE billing.users ADD CONSTRAINT left_over CHECK (true)",
    "privilege": "GRANT SELECT ON billing.users TO pg_monitor",
    "setting": "ALTER DATABASE {database} SET statement_timeout = '1s'",
    "statistics": "ANALYZE billing.users",
    "revision": "UPDATE billing.alembic_version SET version_num = 'r0000'",
}


@pytest.fixture
def databases(postgres_url: str) -> Iterator[MigratedDatabases]:
    opened = MigratedDatabases(postgres_url)
    yield opened
    opened.close()


async def test_rows_and_numbers_are_gone_in_the_next_test(databases: MigratedDatabases) -> None:
    url = databases.lend()
    connection = await asyncpg.connect(url)
    for statement in _ROWS:
        await connection.execute(statement)
    first = await connection.fetchval(_NEXT_ENTRY)
    await connection.close()
    databases.take_back(url)

    assert databases.lend() == url
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT count(*) FROM billing.users") == 0
    assert await connection.fetchval("SELECT count(*) FROM billing.organizations") == 0
    assert await connection.fetchval("SELECT count(*) FROM billing.alembic_version") == 1
    assert await connection.fetchval(_NEXT_ENTRY) == first
    await connection.close()


_NEXT_ENTRY = "SELECT nextval(pg_get_serial_sequence('billing.audit_log', 'entry_id'))"


@pytest.mark.parametrize("what", _LEFT_OVERS)
async def test_a_database_that_a_test_has_changed_is_not_lent_again(databases: MigratedDatabases, what: str) -> None:
    url = databases.lend()
    connection = await asyncpg.connect(url)
    await connection.execute(_ROWS[1])
    index = await connection.fetchval(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'users' AND indexname !~ 'pk|pkey'"
    )
    statement = _LEFT_OVERS[what].format(database=url.rpartition("/")[2], index=index)
    await connection.execute(statement)
    await connection.close()
    databases.take_back(url)
    assert databases.lend() != url


async def test_a_database_with_a_session_is_not_lent_again(databases: MigratedDatabases) -> None:
    url = databases.lend()
    connection = await asyncpg.connect(url)
    databases.take_back(url)
    assert databases.lend() != url
    connection.terminate()
