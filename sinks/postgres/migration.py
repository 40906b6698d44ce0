"""Migrates schema `billing` to the revision of this code. Several processes may do so at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.errors import StoreUnavailable
from sinks.postgres import migrations
from sinks.postgres.failures import classified
from sinks.postgres.pool import SessionTimeouts, make_engine
from sinks.postgres.tables import metadata

WAIT_S = 30.0
_PAUSE_S = 0.25
_LOCK_ID = 0x62696C6C696E67  # "billing"; a partition's lock (store.py) has 64 bits of a digest

# A revision may rewrite a large table. `lock_s` also limits the wait for another process's migration.
_BOUNDS = SessionTimeouts(statement_s=3600.0, lock_s=60.0)


@dataclass(frozen=True, slots=True)
class Migrated:
    """The revisions before and after a migration. `before` is None if the database had no revision."""

    before: str | None
    after: str


async def migrate(url: SecretStr, *, wait_s: float = WAIT_S) -> Migrated:
    """Runs the missing revisions in one transaction. Waits up to `wait_s` seconds for the server to answer.

    Raises StoreUnavailable, InvalidSettings.
    """
    engine = make_engine(url, application="billing-migrate", bounds=_BOUNDS)
    connection = await _connected(engine, wait_s)
    try:
        with classified():
            async with connection.begin():
                await connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
                return await connection.run_sync(_upgrade)
    finally:
        await connection.close()


async def revision(connection: AsyncConnection) -> str | None:
    """Returns the revision of the database, or None if it has none."""
    with classified():
        return await connection.run_sync(_revision)


def newest_revision() -> str:
    """Returns the revision that this code expects."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise LookupError("the package contains no revision")
    return head


async def _connected(engine: AsyncEngine, wait_s: float) -> AsyncConnection:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        try:
            with classified():
                return await engine.connect()
        except StoreUnavailable as error:
            # Waiting for the server to start does not help if it rejects the name and password.
            is_final = isinstance(error.__cause__, asyncpg.InvalidAuthorizationSpecificationError)
            if is_final or loop.time() >= deadline:
                raise
        await asyncio.sleep(_PAUSE_S)


def _upgrade(connection: Connection) -> Migrated:
    # CREATE SCHEMA IF NOT EXISTS would require the CREATE privilege even if the schema exists.
    if not connection.execute(text("SELECT to_regnamespace(:name)"), {"name": metadata.schema}).scalar():
        connection.execute(text(f"CREATE SCHEMA {metadata.schema}"))
    before = _revision(connection)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return Migrated(before, newest_revision())


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": metadata.schema})
    return context.get_current_revision()


def _config() -> Config:
    config = Config()
    # Alembic interpolates percent signs in its configuration, and a folder's name may contain one.
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config
