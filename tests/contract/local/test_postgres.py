"""The embedded PostgreSQL: committed rows survive a stop and a kill -9, and every connection needs the password."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from pydantic import SecretStr

from local.stack import postgres_programs
from local.stack.postgres import EmbeddedPostgres
from local.stack.postgres_programs import binary
from local.stack.process import ServerNotReady
from sinks.postgres.migration import migrate


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server for this test alone, because the test kills it."""
    server = EmbeddedPostgres(tmp_path / "state")
    yield server
    server.stop()


async def _fetch(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url, timeout=30)
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


_OF_A_SUPERUSER = (
    "SELECT pg_read_file('/etc/passwd')",
    "COPY (SELECT 1) TO '/tmp/billing-test-copy'",
    "COPY pg_temp.lines FROM PROGRAM 'id'",
    "ALTER ROLE billing_local SUPERUSER",
    "CREATE ROLE billing_other SUPERUSER",
    "GRANT pg_read_server_files TO billing_local",
    "ALTER SYSTEM SET work_mem = '1GB'",
)


async def test_T32_the_owner_of_the_database_is_no_superuser(postgres: EmbeddedPostgres) -> None:
    """It reads no file and runs no program, and it can do what `billing migrate` and `billing rebuild` need."""
    postgres.start()
    assert postgres.superuser_url != postgres.url
    owner = await asyncpg.connect(postgres.url, timeout=30)
    try:
        await owner.execute("CREATE TEMP TABLE lines (line text)")
        for statement in _OF_A_SUPERUSER:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute(statement)
        await owner.execute("CREATE DATABASE another")
    finally:
        await owner.close()
    await migrate(SecretStr(postgres.url))
    roles = await _fetch(postgres.url, "SELECT DISTINCT rolsuper FROM pg_roles WHERE rolname LIKE 'billing\\_%'")
    assert [row["rolsuper"] for row in roles] == [False]


async def test_T32_a_database_of_an_earlier_version_changes_its_owner(postgres: EmbeddedPostgres) -> None:
    """There the superuser owned all, and `billing migrate` continues as the new owner."""
    postgres.start()
    await migrate(SecretStr(postgres.superuser_url))
    given = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO billing', current_database()); END $$"
    await _fetch(postgres.superuser_url, given)
    await _fetch(postgres.superuser_url, "CREATE SCHEMA more")
    await _fetch(postgres.superuser_url, "CREATE TYPE more.kind AS ENUM ('a')")
    await _fetch(postgres.superuser_url, "CREATE TABLE more.rows (n serial, kind more.kind)")
    postgres.stop()
    (postgres.state_dir / "postgres" / "owner_password").unlink()

    again = EmbeddedPostgres(postgres.state_dir)
    try:
        again.start()
        await _fetch(again.url, "ALTER TABLE more.rows ADD COLUMN more int")
        await _fetch(again.url, "ALTER TYPE more.kind ADD VALUE 'b'")
        await _fetch(again.url, "ALTER TABLE billing.events ADD COLUMN more int")
        await migrate(SecretStr(again.url))
        owners = await _fetch(again.url, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'billing'")
        assert [row["tableowner"] for row in owners] == ["billing_local"]
    finally:
        again.stop()


def _status(pid: int) -> dict[str, str]:
    """The fields of the process's status, {} if it has ended."""
    try:
        return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return {}


def _user_of(process: psutil.Process) -> int | None:
    """The id of the process's user, None if it has ended."""
    try:
        return process.uids().real
    except psutil.NoSuchProcess:
        return None


async def test_T32_the_server_has_no_capability_whoever_starts_it(tmp_path: Path) -> None:
    """Started by root, it runs in a directory that only root can enter, and reads nothing of root's."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    secret = closed / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    server = EmbeddedPostgres(closed / "state")
    server.start()
    try:
        main = psutil.Process(server.pid)
        users = {process: _user_of(process) for process in (main, *main.children(recursive=True))}
        lasting = [process for process, user in users.items() if user is not None]  # autovacuum's workers come and go
        assert main in lasting
        assert len(lasting) > 1
        assert 0 not in users.values()
        if sys.platform == "linux":
            statuses = [status for process in lasting if (status := _status(process.pid))]
            assert len(statuses) > 1
            masks = {status[name] for status in statuses for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")}
            assert masks == {"0" * 16}
        if os.geteuid() == 0:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="Permission denied"):
                await _fetch(server.superuser_url, f"SELECT pg_read_file('{secret}')")
        server.kill()
        server.start()
        assert (await _fetch(server.url, "SELECT 1"))[0][0] == 1
    finally:
        server.stop()


def test_T32_programs_that_only_root_reaches_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user runs the programs of the wheel itself."""
    package = Path(binary("postgres")).parents[2]
    closed, cache = tmp_path / "venv", tmp_path / "cache"
    closed.mkdir(mode=0o700)
    for one in (package, package.with_name(f"{package.name}.libs")):
        if one.exists():
            shutil.copytree(one, closed / one.name, symlinks=True)
    monkeypatch.setattr("sys.path", [str(closed), *sys.path])
    monkeypatch.setattr(postgres_programs, "CACHE", cache)
    if os.geteuid() != 0:
        assert Path(binary("postgres")).is_relative_to(closed)
        assert not cache.exists()
        return
    abandoned = cache / "draft-of-a-killed-start"
    abandoned.mkdir(parents=True)
    os.utime(abandoned, (0, 0))

    umask = os.umask(0o077)  # as `billing up` sets it
    try:
        copied = Path(binary("postgres"))
    finally:
        os.umask(umask)

    assert copied.is_relative_to(cache)
    assert cache.stat().st_mode & 0o777 == 0o755, "the server's user reaches its programs"
    assert copied.stat().st_mode & 0o777 == 0o755
    assert Path(binary("initdb")) == copied.with_name("initdb")  # the same copy, made once
    assert [one.name for one in cache.iterdir()] == [copied.relative_to(cache).parts[0]]
    for name in ("initdb", "postgres", "pg_isready"):
        found = subprocess.run([binary(name), "--version"], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
    copied.parents[3].chmod(0o777)
    with pytest.raises(ServerNotReady, match="does not belong to root alone"):
        binary("postgres")
