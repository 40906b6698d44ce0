"""The embedded PostgreSQL: committed rows survive a stop and a kill -9, and every connection needs the password."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from local.stack.postgres import EmbeddedPostgres


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server for this test alone, because the test kills it."""
    server = EmbeddedPostgres(tmp_path / "state")
    yield server
    server.stop()


async def _fetch(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


async def test_rows_survive_stop_and_kill(postgres: EmbeddedPostgres) -> None:
    """Committed rows are there after a stop and after a kill -9, at the same address."""
    postgres.start()
    url = postgres.url
    await _fetch(url, "CREATE TABLE kept (n int)")
    await _fetch(url, "INSERT INTO kept VALUES (1)")
    postgres.stop()
    assert postgres.pid is None

    postgres.start()
    assert postgres.url == url
    bystander = await asyncpg.connect(url)  # its backend lives a moment longer than the postmaster
    await _fetch(url, "INSERT INTO kept VALUES (2)")
    postgres.kill()
    assert postgres.wanted

    postgres.start()
    rows = await _fetch(url, "SELECT n FROM kept ORDER BY n")
    assert [row["n"] for row in rows] == [1, 2]
    bystander.terminate()


async def test_the_password_is_required(postgres: EmbeddedPostgres) -> None:
    """A wrong password is refused, also over TCP on loopback. The right one is in a file readable by its owner only."""
    postgres.start()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host="127.0.0.1", port=postgres.port, user="billing", password="wrong", database="billing"
        )
    password_file = postgres.state_dir / "postgres" / "password"
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    assert (await _fetch(postgres.url, "SHOW listen_addresses"))[0][0] == "127.0.0.1"
    assert (await _fetch(postgres.url, "SHOW max_connections"))[0][0] == "100"


async def test_each_test_has_a_database_of_its_own(database_url: str, postgres_url: str) -> None:
    """The fixture's database is empty and is not the shared one."""
    assert database_url != postgres_url
    await _fetch(postgres_url, "CREATE TABLE IF NOT EXISTS of_the_shared_one (n int)")
    assert await _fetch(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
