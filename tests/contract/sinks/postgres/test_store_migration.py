"""`billing migrate`: the revisions produce the schema of `tables`, once, whoever runs them and however often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import CheckConstraint, Connection, inspect, text
from typer.testing import CliRunner, Result

from local.stack.ports import free_port
from ops.cli import command_line
from schemas.errors import StoreUnavailable
from sinks.postgres.migration import Migrated, migrate, revision
from sinks.postgres.outboxes import OUTBOXES
from sinks.postgres.pool import make_engine, reading
from sinks.postgres.revisions import newest_revision
from sinks.postgres.tables import STATE_TABLES, dead_letters, events, metadata
from tests.kits.storekit import ask

Billing = Callable[..., Result]


@pytest.fixture
def billing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> Billing:
    """Runs the command line with the settings of a process."""
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("BILLING_CONFIG", str(tmp_path / "billing.toml"))
    monkeypatch.setenv("BILLING_DATABASE_URL", database_url)
    return lambda *words: CliRunner().invoke(command_line(words[:1]), words)


async def test_the_migrated_schema_is_the_one_of_the_tables(database: SecretStr) -> None:
    engine = make_engine(database, application="test")
    async with engine.connect() as connection:
        differences = await connection.run_sync(_differences)
        checks = await connection.run_sync(_checks)
    await engine.dispose()
    assert differences == []
    assert checks == {
        (table.name, check.name)
        for table in metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }


def _differences(connection: Connection) -> Any:
    options = {
        "include_schemas": True,
        "version_table_schema": metadata.schema,
        "compare_type": True,
        "compare_server_default": True,
        "include_name": lambda name, kind, _parents: kind != "schema" or name == metadata.schema,
    }
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def _checks(connection: Connection) -> set[tuple[str, str | None]]:
    # Alembic does not compare check constraints.
    found = inspect(connection).get_multi_check_constraints(schema=metadata.schema)
    return {(table, check["name"]) for (_, table), checks in found.items() for check in checks}


async def test_the_checks_list_the_same_values(database: SecretStr) -> None:
    """Compared in Postgres' own notation, by creating the tables again from their definitions."""
    query = (
        "SELECT array_agg(conrelid::regclass::text || pg_get_constraintdef(oid) ORDER BY 1) "
        "FROM pg_constraint WHERE contype = 'c' AND connamespace = 'billing'::regnamespace"
    )
    migrated = await ask(database, query)
    engine = make_engine(database, application="test")
    async with engine.begin() as connection:
        await connection.execute(text("DROP VIEW billing.access"))
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    assert sorted(await ask(database, query)) == sorted(migrated)


async def test_no_big_table_waits_for_a_fifth_of_its_rows_before_a_vacuum(database: SecretStr) -> None:
    """Postgres' default is 0.2 of the rows. A new table of state or an outbox takes part."""
    query = (
        "SELECT array_agg(c.relname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, "
        "unnest(c.reloptions) AS o WHERE n.nspname = ANY($1) AND o LIKE $2 AND split_part(o, '=', 2)::float <= 0.05"
    )
    schemas = ["billing", "analytics"]
    updated = set(await ask(database, query, schemas, "autovacuum_vacuum_scale_factor=%"))
    added_to = set(await ask(database, query, schemas, "autovacuum_vacuum_insert_scale_factor=%"))
    big = {table.name for table in (*STATE_TABLES.values(), events, dead_letters, *(one.table for one in OUTBOXES))}
    assert big - updated - added_to == set()
    assert {"events", "emails", "payments", "facts"} <= updated & added_to


async def test_payloads_are_compressed_with_lz4_if_the_server_has_it(database: SecretStr) -> None:
    settings = "pg_settings WHERE name = 'default_toast_compression'"
    knows = await ask(database, f"SELECT 'lz4' = ANY(enumvals) FROM {settings}")  # as above
    chosen = await ask(
        database,
        "SELECT attcompression::text FROM pg_attribute WHERE attrelid = 'billing.events'::regclass "
        "AND attname = 'payload'",
    )
    assert chosen == ("l" if knows else "")


async def test_concurrent_migrations_migrate_once(database_url: str) -> None:
    url = SecretStr(database_url)
    ended = await asyncio.gather(*(migrate(url) for _ in range(4)))
    newest = newest_revision()
    assert sorted(ended, key=repr) == sorted([Migrated(None, newest), *[Migrated(newest, newest)] * 3], key=repr)
    async with reading(url) as connection:
        assert await revision(connection) == newest


async def test_a_revision_that_fails_leaves_nothing(database_url: str) -> None:
    """Each revision is one transaction. An existing table makes it fail; once that is dropped it succeeds."""
    url = SecretStr(database_url)
    await ask(url, "CREATE SCHEMA billing")
    await ask(url, "CREATE TABLE billing.dead_letters ()")
    with pytest.raises(StoreUnavailable, match="dead_letters"):
        await migrate(url)
    assert await ask(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'billing'") == 1
    await ask(url, "DROP TABLE billing.dead_letters")
    assert await migrate(url) == Migrated(None, newest_revision())


async def test_it_waits_for_a_server_up_to_the_given_time() -> None:
    url = SecretStr(f"postgresql://billing@127.0.0.1:{free_port()}/billing")
    began = time.monotonic()
    async with asyncio.timeout(60):
        with pytest.raises(StoreUnavailable):
            await migrate(url, wait_s=0.5)
    assert time.monotonic() - began >= 0.5


async def test_it_does_not_wait_after_a_wrong_password(database_url: str) -> None:
    async with asyncio.timeout(60):
        with pytest.raises(StoreUnavailable, match="28P01"):
            await migrate(SecretStr(database_url.replace("://billing:", "://billing:x")), wait_s=3600)


async def test_it_needs_no_right_to_create_once_there_is_nothing_to_do(database: SecretStr) -> None:
    """A worker's own database user may run it before the worker starts."""
    connection = await asyncpg.connect(database.get_secret_value())
    try:
        role = f"r_{await connection.fetchval('SELECT current_database()')}"
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        await connection.execute(f"GRANT USAGE ON SCHEMA billing TO {role}")
        await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA billing TO {role}")
        address = database.get_secret_value().rpartition("@")[2]
        try:
            ended = await migrate(SecretStr(f"postgresql://{role}:x@{address}"))
        finally:
            await connection.execute(f"DROP OWNED BY {role}")
            await connection.execute(f"DROP ROLE {role}")
    finally:
        await connection.close()
    assert ended == Migrated(newest_revision(), newest_revision())


def test_the_command_prints_the_old_and_the_new_revision(billing: Billing) -> None:
    newest = newest_revision()
    first = billing("migrate")
    assert (first.exit_code, first.stdout) == (0, f"schema billing: nothing → {newest}\n")
    again = billing("migrate")
    assert (again.exit_code, again.stdout) == (0, f"schema billing: already at {newest}\n")
    as_json = billing("migrate", "--json")
    assert orjson.loads(as_json.stdout) == {"before": newest, "after": newest, "backfilled": {}, "roles": []}


def test_the_command_names_a_missing_setting_and_exits_2(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BILLING_DATABASE_URL")
    ended = billing("migrate")
    assert ended.exit_code == 2
    assert ended.stderr == "billing migrate: BILLING_DATABASE_URL is not set\n"


def test_the_command_exits_3_with_one_line_if_no_server_answers(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", f"postgresql://billing:hunter2@127.0.0.1:{free_port()}/x")
    ended = billing("migrate", "--wait", "0")
    assert ended.exit_code == 3
    assert ended.stderr.startswith("billing migrate: no answer from Postgres")
    assert ended.stderr.count("\n") == 1
    assert "hunter2" not in ended.stderr
