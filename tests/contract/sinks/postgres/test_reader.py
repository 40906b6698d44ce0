"""docs/tables.md names every column of its tables with its type; its role reads these tables and nothing else."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "tables.md").read_text()
TYPES = {
    "text": "text",
    "boolean": "boolean",
    "timestamp with time zone": "time",
    "bigint": "bigint",
    "integer": "integer",
    "jsonb": "json",
    "bytea": "bytes",
}
_COLUMN = re.compile(r"^\| `(\w+)` \| (\w+)(, key)? \| .+ \|$", re.MULTILINE)
_STATEMENTS = re.compile(r"```sql\n(.*?)```", re.DOTALL)


def sections() -> dict[str, str]:
    """The text about each table, by its name."""
    parts = re.split(r"^## billing\.(\w+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture
async def connection(database: SecretStr) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    opened = await asyncpg.connect(database.get_secret_value())
    yield opened
    await opened.close()


async def test_F3_the_page_names_every_column_with_its_type(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    rows = await connection.fetch(
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'billing'"
    )
    keys = await connection.fetch(
        "SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey) "
        "WHERE i.indisprimary AND c.relnamespace = 'billing'::regnamespace"
    )
    is_key = {(row["relname"], row["attname"]) for row in keys}
    for table, text in sections().items():
        present = {row["column_name"]: TYPES[row["data_type"]] for row in rows if row["table_name"] == table}
        named = {name: type_ for name, type_, _ in _COLUMN.findall(text)}
        internal = set(re.findall(r"`(\w+)`", text.partition("\nInternal: ")[2]))
        assert named.keys() | internal == present.keys(), table
        assert not named.keys() & internal, table
        assert named == {name: present[name] for name in named}, table
        assert {name for name, _, key in _COLUMN.findall(text) if key} == {
            column for of, column in is_key if of == table
        }, table


async def test_F3_the_documented_role_reads_what_the_page_names_and_nothing_else(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    (statements,) = _STATEMENTS.findall(PAGE)
    role = f"reader_{await connection.fetchval('SELECT current_database()')}"  # roles belong to the whole server
    await connection.execute(statements.replace("billing_reader", role))
    try:
        names = await connection.fetch(
            "SELECT c.relname AS name, has_table_privilege($1, c.oid, 'SELECT') AS reads, "
            "has_table_privilege($1, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS writes "
            "FROM pg_class c WHERE c.relnamespace = 'billing'::regnamespace AND c.relkind IN ('r', 'v')",
            role,
        )
        assert {row["name"] for row in names if row["reads"]} == sections().keys()
        assert not any(row["writes"] for row in names)
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {role}")
            assert await connection.fetch("SELECT * FROM billing.access") == []
    finally:
        await connection.execute(f"DROP OWNED BY {role}")
        await connection.execute(f"DROP ROLE {role}")
