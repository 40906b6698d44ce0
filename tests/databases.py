"""Databases with all tables for tests, copied from a template and lent to one test after another.

A migration of an empty database takes seconds, a copy a tenth of one, and emptying the tables a hundredth. The template
is made once for each state of the migrations and stays on the test server, so that all runs and processes share it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from pydantic import SecretStr

from sinks.postgres import migration, tables
from sinks.postgres.migrations import versions

Result = TypeVar("Result")

_TEMPLATE_LOCK = 7_203_118
_STATEMENT_S = 60
_LEFT_WITHIN_S = 1.0
"""How long a test's last sessions may take to end. Later the database is dropped, so that is no deadline of a test."""

_OWN = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
# Object ids and row versions (xmin) of the catalog: any change of the schema, of a privilege or of a setting shows, and
# so do statistics, on which plans depend. TRUNCATE changes none of them.
SCHEMA = f"""
    WITH names AS (SELECT * FROM pg_namespace AS n WHERE {_OWN}),
    own AS (SELECT c.* FROM pg_class AS c JOIN names AS n ON n.oid = c.relnamespace),
    here AS (SELECT * FROM pg_database WHERE datname = current_database()),
    line (parts) AS (
        SELECT concat_ws(':', 'name', oid, xmin) FROM pg_namespace
        UNION ALL
        SELECT concat_ws(':', 'table', oid, relname, relkind, relowner, relacl, reloptions, relrowsecurity) FROM own
        UNION ALL
        SELECT concat_ws(':', 'column', attrelid, attnum, a.xmin) FROM pg_attribute AS a JOIN own ON own.oid = attrelid
        UNION ALL
        SELECT concat_ws(':', 'index', indexrelid, indisvalid, indisready) FROM pg_index JOIN own ON own.oid = indrelid
        UNION ALL
        SELECT concat_ws(':', 'function', p.oid, p.xmin) FROM pg_proc AS p JOIN names AS n ON n.oid = pronamespace
        UNION ALL
        SELECT concat_ws(':', 'type', t.oid, t.xmin) FROM pg_type AS t JOIN names AS n ON n.oid = typnamespace
        UNION ALL SELECT concat_ws(':', 'default', oid, xmin) FROM pg_attrdef
        UNION ALL SELECT concat_ws(':', 'constraint', oid, xmin) FROM pg_constraint
        UNION ALL SELECT concat_ws(':', 'trigger', oid, xmin) FROM pg_trigger
        UNION ALL SELECT concat_ws(':', 'extension', oid, xmin) FROM pg_extension
        UNION ALL SELECT concat_ws(':', 'publication', oid, xmin) FROM pg_publication
        UNION ALL SELECT concat_ws(':', 'statistic', starelid, staattnum) FROM pg_statistic JOIN own ON oid = starelid
        UNION ALL SELECT concat_ws(':', 'database', datacl, datallowconn, datconnlimit) FROM here
        UNION ALL
        SELECT concat_ws(':', 'setting', setrole, setconfig) FROM pg_db_role_setting JOIN here ON oid = setdatabase
    )
    SELECT md5(string_agg(parts, ' ' ORDER BY parts)) FROM line
"""
_WRITTEN = f"""
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND pg_relation_size(c.oid) > 0 AND {_OWN} ORDER BY 1
"""
"""Tables that have, or had, rows since they were created or truncated."""
_SEQUENCES = """
    SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences WHERE last_value IS NOT NULL
    ORDER BY 1
"""
"""The last value of each sequence that has given one."""


@dataclass(frozen=True, slots=True)
class _Lent:
    """A database, and what was in it when it was new."""

    name: str
    schema: str
    rows: dict[str, str]
    """The rows of each table that is not empty, as JSON."""
    sequences: dict[str, int]


class MigratedDatabases:
    """Lends databases that `billing migrate` has migrated, all tables empty.

    One that comes back is emptied for the next test. It is dropped if anything remains of the test that emptying does
    not undo: a session, a change of the schema, of a privilege, of a setting or of the migrations' own rows.
    """

    def __init__(self, server_url: str) -> None:
        """`server_url` is the address of any database of the server, for a superuser."""
        self._server = _on_server(server_url, "postgres")
        # A separate thread is needed: the caller's may run the test's event loop.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection[Any] | None = None
        self._free: list[_Lent] = []
        self._lent: dict[str, _Lent] = {}

    def lend(self) -> str:
        """Returns the URL of a database that no other test uses."""
        lent = self._free.pop() if self._free else self._run(self._created())
        url = _on_server(self._server, lent.name)
        self._lent[url] = lent
        return url

    def take_back(self, url: str) -> None:
        """Empties the database for the next test, or drops it."""
        lent = self._lent.pop(url)
        if self._run(self._is_new_again(lent)):
            self._free.append(lent)
        else:
            self._run(self._drop(lent.name))

    def close(self) -> None:
        """Drops the databases."""
        for lent in (*self._free, *self._lent.values()):
            self._run(self._drop(lent.name))
        self._run(self._disconnect())
        self._thread.submit(self._runner.close).result(timeout=_STATEMENT_S)
        self._thread.shutdown()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._thread.submit(self._runner.run, work).result(timeout=_STATEMENT_S)

    async def _admin(self) -> asyncpg.Connection[Any]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(self._server, timeout=30)
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close(timeout=30)

    async def _created(self) -> _Lent:
        name = f"t_{uuid.uuid4().hex[:12]}"
        await copy_template(await self._admin(), self._server, name)
        connection = await asyncpg.connect(_on_server(self._server, name), timeout=30)
        try:
            written = [row[0] for row in await connection.fetch(_WRITTEN)]
            rows = {table: await _contents(connection, table) for table in written}
            return _Lent(
                name,
                await connection.fetchval(SCHEMA),
                rows,
                await _sequences(connection),
            )
        finally:
            await connection.close(timeout=30)

    async def _is_new_again(self, lent: _Lent) -> bool:
        if not await self._is_left(lent.name):
            return False
        try:
            connection = await asyncpg.connect(_on_server(self._server, lent.name), timeout=30)
        except asyncpg.PostgresError:  # the test dropped or closed it
            return False
        try:
            if await connection.fetchval(SCHEMA) != lent.schema:
                return False
            await _empty(connection, lent)
            rows = {table: await _contents(connection, table) for table in lent.rows}
            return rows == lent.rows and await _sequences(connection) == lent.sequences
        finally:
            await connection.close(timeout=30)

    async def _is_left(self, name: str) -> bool:
        """Waits shortly for the end of sessions that the test has closed. Returns whether no session is left."""
        admin, deadline = await self._admin(), time.monotonic() + _LEFT_WITHIN_S
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'"
        while is_used := await admin.fetchval(query, name) > 0:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)
        return not is_used

    async def _drop(self, name: str) -> None:
        await (await self._admin()).execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", timeout=_STATEMENT_S)


async def create_tables(database_url: str) -> SecretStr:
    """Replace the empty database at this URL by one that `billing migrate` has migrated. Returns its URL."""
    name = urlsplit(database_url).path.lstrip("/")
    connection = await asyncpg.connect(_on_server(database_url, "postgres"), timeout=30)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", timeout=_STATEMENT_S)
        await copy_template(connection, database_url, name)
    finally:
        await connection.close(timeout=30)
    return SecretStr(database_url)


async def copy_template(connection: asyncpg.Connection[Any], server_url: str, name: str) -> None:
    """Create the database as a copy of the template."""
    # A database cannot be copied while another process makes or copies it.
    await connection.execute("SELECT pg_advisory_lock($1)", _TEMPLATE_LOCK, timeout=_STATEMENT_S)
    try:
        template = await _template(connection, server_url)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy", timeout=_STATEMENT_S)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _TEMPLATE_LOCK, timeout=_STATEMENT_S)


async def _template(connection: asyncpg.Connection[Any], server_url: str) -> str:
    name = f"template_{_state_of_migrations()}"
    if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name):
        draft = f"{name}_draft"
        await connection.execute(f"DROP DATABASE IF EXISTS {draft} WITH (FORCE)", timeout=_STATEMENT_S)
        await connection.execute(f"CREATE DATABASE {draft}", timeout=_STATEMENT_S)
        await migration.migrate(SecretStr(_on_server(server_url, draft)))
        await connection.execute(f"ALTER DATABASE {draft} RENAME TO {name}", timeout=_STATEMENT_S)
    return name


async def _empty(connection: asyncpg.Connection[Any], lent: _Lent) -> None:
    """Truncates the tables that were empty, and sets all sequences to what they were."""
    await connection.execute("SET session_replication_role = replica")  # no trigger of the schema fires
    if used := [table for (table,) in await connection.fetch(_WRITTEN) if table not in lent.rows]:
        await connection.execute(f"TRUNCATE {', '.join(used)} CASCADE")
    for sequence, value in (await _sequences(connection)).items():
        if sequence not in lent.sequences:
            await connection.execute(f"ALTER SEQUENCE {sequence} RESTART")
        elif lent.sequences[sequence] != value:
            await connection.execute("SELECT setval($1::text::regclass, $2)", sequence, lent.sequences[sequence])
    await connection.execute("SELECT pg_stat_reset()")


async def _sequences(connection: asyncpg.Connection[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in await connection.fetch(_SEQUENCES)}


async def _contents(connection: asyncpg.Connection[Any], table: str) -> str:
    return str(await connection.fetchval(f"SELECT json_agg(t) FROM {table} AS t"))


def _state_of_migrations() -> str:
    files = [Path(tables.__file__), *sorted(Path(migration.__file__).parent.glob("*.py"))]
    files += sorted(Path(versions.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _on_server(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
