"""Databases with all tables for tests, copied from a template instead of migrated one by one.

A migration of an empty database takes seconds, a copy a tenth of one. The template is made once for each state of the
migrations and stays on the test server, so that all runs and processes share it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from pydantic import SecretStr

from sinks.postgres import migration, tables
from sinks.postgres.migrations import versions

_TEMPLATE_LOCK = 7_203_118
_STATEMENT_S = 60


async def create_tables(database_url: str) -> SecretStr:
    """Replace the empty database at this URL by one that `billing migrate` has migrated. Returns its URL."""
    url = urlsplit(database_url)
    name = url.path.lstrip("/")
    connection = await asyncpg.connect(_server(database_url), timeout=10)
    try:
        # A database cannot be copied while somebody is making or copying it.
        await connection.execute("SELECT pg_advisory_lock($1)", _TEMPLATE_LOCK, timeout=_STATEMENT_S)
        template = await _template(connection, database_url)
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", timeout=_STATEMENT_S)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy", timeout=_STATEMENT_S)
    finally:
        await connection.close(timeout=5)
    return SecretStr(database_url)


async def _template(connection: asyncpg.Connection, database_url: str) -> str:
    name = f"template_{_state_of_migrations()}"
    if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name):
        draft = f"{name}_draft"
        await connection.execute(f"DROP DATABASE IF EXISTS {draft} WITH (FORCE)", timeout=_STATEMENT_S)
        await connection.execute(f"CREATE DATABASE {draft}", timeout=_STATEMENT_S)
        await migration.migrate(SecretStr(urlunsplit(urlsplit(database_url)._replace(path=f"/{draft}"))))
        await connection.execute(f"ALTER DATABASE {draft} RENAME TO {name}", timeout=_STATEMENT_S)
    return name


def _state_of_migrations() -> str:
    files = [Path(tables.__file__), *sorted(Path(migration.__file__).parent.glob("*.py"))]
    files += sorted(Path(versions.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _server(database_url: str) -> str:
    return urlunsplit(urlsplit(database_url)._replace(path="/postgres"))
