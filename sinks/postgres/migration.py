"""Beside the flow: brings schema `billing` up to this version of the code, whoever else does so at the same time."""

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

# A revision may rewrite a large table, and another process's migration is worth waiting for.
_BOUNDS = SessionTimeouts(statement_s=3600.0, lock_s=60.0)


@dataclass(frozen=True, slots=True)
class Migrated:
    """From which revision to which; `before` is None where there was none."""

    before: str | None
    after: str


async def migrate(url: SecretStr, *, wait_s: float = WAIT_S) -> Migrated:
    """Runs the revisions that are missing, all in one transaction. Waits `wait_s` seconds for a server to answer.

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
    """Which revision the database is at."""
    with classified():
        return await connection.run_sync(_revision)


def newest_revision() -> str:
    """Which revision this code expects."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise LookupError("the package holds no revision")
    return head


async def _connected(engine: AsyncEngine, wait_s: float) -> AsyncConnection:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        try:
            with classified():
                return await engine.connect()
        except StoreUnavailable as error:
            # A server that starts will take this name and password no sooner.
            is_final = isinstance(error.__cause__, asyncpg.InvalidAuthorizationSpecificationError)
            if is_final or loop.time() >= deadline:
                raise
        await asyncio.sleep(_PAUSE_S)


def _upgrade(connection: Connection) -> Migrated:
    # Not IF NOT EXISTS, which asks for the right to create even where there is nothing to do.
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
    # Alembic's config interpolates, and a folder's name may hold a percent sign.
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config
