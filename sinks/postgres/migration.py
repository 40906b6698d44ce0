"""Migrates schema `billing` to the revision of this code. Several processes may do so at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import structlog
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from asyncpg import DeadlockDetectedError, LockNotAvailableError
from pydantic import SecretStr
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from schemas.errors import StoreUnavailable
from sinks.postgres import migrations
from sinks.postgres.backfill import Backfill, run_backfills
from sinks.postgres.failures import classified
from sinks.postgres.pool import Session, SessionTimeouts, TlsRefused, connect, make_engine
from sinks.postgres.positions import identify
from sinks.postgres.revisions import is_known, newest_revision
from sinks.postgres.roles import grant
from sinks.postgres.tables import metadata

log = structlog.get_logger(__name__)

WAIT_S = 30.0
_PAUSE_S = 0.25
_LOCK_ID = 0x62696C6C696E67  # "billing"; a partition's lock (store.py) has 64 bits of a digest

# While a change waits for its lock on a table, all later queries on that table wait for it. So it waits only shortly,
# and tries again. A concurrent index build may read a large table for long (migrations/online.py).
_BOUNDS = SessionTimeouts(statement_s=6 * 3600.0, lock_s=3.0)
_LOCK_TRIES = 100
_LOCK_PAUSE_S = 3.0
_LONGEST_TURN_S = 12 * 3600.0
"""How long to wait for another process that migrates."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """The revisions before and after a migration. `before` is None if the database had no revision."""

    before: str | None
    after: str
    backfilled: dict[str, int] = field(default_factory=dict)
    """The number of rows changed by each data migration that was not complete before."""
    roles: list[str] = field(default_factory=list)
    """The roles that have their privileges (sinks/postgres/roles.py)."""


async def migrate(
    url: SecretStr,
    *,
    wait_s: float = WAIT_S,
    backfills: Sequence[Backfill] | None = None,
    role_prefix: str = "billing",
    creates_roles: bool = False,
) -> Migrated:
    """Runs the missing revisions, each in its own transaction, and then the backfills that are not complete.

    Existing roles get the privileges on new tables, before the backfills, which may take long; with `creates_roles`
    the missing ones are created first. Changes nothing if a newer version has migrated the database.

    What is done stays done: after an error, run it again. Waits up to `wait_s` seconds for the server to answer, and
    while another process migrates. Raises StoreUnavailable, InvalidSettings.
    """
    engine = make_engine(url, application="billing-migrate", bounds=_BOUNDS, own_session=True)
    connection = await _connected(engine, wait_s)
    try:
        with classified():
            session = await _session_of(connection)
            await _take_turn(session)
            before = await connection.run_sync(_revision)
            await connection.rollback()
            if before is not None and not is_known(before):  # a newer version's: this one is a rollback
                return Migrated(before, before)
            await _upgraded(connection)
            await connection.commit()
            await identify(session)
            roles = await grant(session, role_prefix, creates=creates_roles)
            return Migrated(before, newest_revision(), await _backfilled(url, backfills), roles)
    finally:
        # Closing the session also releases the lock. Without a pool, `invalidate` closes it at once.
        await connection.invalidate()
        await connection.close()


async def _backfilled(url: SecretStr, backfills: Sequence[Backfill] | None) -> dict[str, int]:
    """Runs the backfills in a session as the worker's. SQLAlchemy's gives JSON in another form to what they share."""
    session = await connect(url, application="billing-migrate", bounds=_BOUNDS, own_session=True)
    try:
        return await run_backfills(session, backfills)
    finally:
        session.terminate()


async def _session_of(connection: AsyncConnection) -> Session:
    session = (await connection.get_raw_connection()).driver_connection
    if not isinstance(session, Session):
        raise TypeError("the engine must come from make_engine")
    return session


async def _take_turn(session: Session) -> None:
    """Waits until no other process migrates. The session holds the lock.

    Asks again and again instead of waiting in the server: there, the waiting query would be a transaction for whose end
    the other process' concurrent index build waits.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LONGEST_TURN_S
    while not await session.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK_ID):
        if loop.time() >= deadline:
            raise StoreUnavailable("another process is still migrating this database")
        await asyncio.sleep(_PAUSE_S)


async def _upgraded(connection: AsyncConnection) -> None:
    """Runs the missing revisions. One that did not get its lock in time is tried again."""
    for attempt in range(1, _LOCK_TRIES + 1):
        try:
            await connection.run_sync(_upgrade)
        except DBAPIError as error:
            is_locked = isinstance(error.driver_exception, (LockNotAvailableError, DeadlockDetectedError))
            if not is_locked or attempt == _LOCK_TRIES:
                raise
            log.info("a table is in use, trying again", action="migrate.retry", tries=attempt)
        else:
            return
        await connection.rollback()
        await asyncio.sleep(_LOCK_PAUSE_S)


async def revision(connection: AsyncConnection) -> str | None:
    """Returns the revision of the database, or None if it has none."""
    with classified():
        return await connection.run_sync(_revision)


async def _connected(engine: AsyncEngine, wait_s: float) -> AsyncConnection:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        try:
            with classified():
                return await engine.connect()
        except StoreUnavailable as error:
            # Waiting for the server to start does not help if it rejects the name and password.
            is_final = isinstance(error, TlsRefused) or isinstance(
                error.__cause__, asyncpg.InvalidAuthorizationSpecificationError
            )
            if is_final or loop.time() >= deadline:
                raise
        await asyncio.sleep(_PAUSE_S)


def _upgrade(connection: Connection) -> None:
    # CREATE SCHEMA IF NOT EXISTS would require the CREATE privilege even if the schema exists.
    if not connection.execute(text("SELECT to_regnamespace(:name)"), {"name": metadata.schema}).scalar():
        connection.execute(text(f"CREATE SCHEMA {metadata.schema}"))
    connection.commit()  # Alembic begins one transaction per revision only if none is open
    if _revision(connection) == newest_revision():
        return
    connection.commit()
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": metadata.schema})
    return context.get_current_revision()


def alembic_config() -> Config:
    """Alembic's configuration with the folder of the migrations."""
    config = Config()
    # Alembic interpolates percent signs in its configuration, and a folder's name may contain one.
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config
