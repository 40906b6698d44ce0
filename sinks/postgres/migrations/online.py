"""Schema changes that a live system does not notice, for revisions after r0008.

Each function ends the revision's transaction and runs in autocommit, so what the revision did before is committed: it
must be repeatable (`if_not_exists=True`), because a revision that fails is run again from its start. The functions
themselves are repeatable too.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op
from sqlalchemy import text

_WAIT_MS = 3_600_000
"""A concurrent build waits for older transactions. That blocks no reader and no writer, so it may take long."""


def create_index(
    name: str, table: str, columns: Sequence[str], *, where: str = "", using: str = "btree", schema: str = "billing"
) -> None:
    """Builds an index without blocking writers. `columns` may be expressions, such as `queued_at DESC`.

    An index that an interrupted build left invalid is built again.
    """
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        connection.execute(text(f"SET lock_timeout = {_WAIT_MS}"))
        is_invalid = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)")
        if connection.execute(is_invalid, {"index": f"{schema}.{name}"}).scalar():
            connection.execute(text(f"DROP INDEX CONCURRENTLY {schema}.{name}"))
        listed, condition = ", ".join(columns), f" WHERE {where}" if where else ""
        what = f"{schema}.{table} USING {using} ({listed}){condition}"
        connection.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {what}"))
        connection.execute(text("SET lock_timeout = '3s'"))


def drop_index(name: str, *, schema: str = "billing") -> None:
    """Drops an index without blocking readers and writers."""
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        connection.execute(text(f"SET lock_timeout = {_WAIT_MS}"))
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {schema}.{name}"))
        connection.execute(text("SET lock_timeout = '3s'"))


def replace_check(name: str, table: str, condition: str, *, schema: str = "billing") -> None:
    """Adds a CHECK constraint, in place of one with the same name, and validates it without blocking writers.

    The old rows are read while everybody can write. Only adding the constraint takes the short exclusive lock.
    """
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        connection.execute(
            text(
                f"ALTER TABLE {schema}.{table} DROP CONSTRAINT IF EXISTS {name}, "
                f"ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"
            )
        )
        connection.execute(text(f"ALTER TABLE {schema}.{table} VALIDATE CONSTRAINT {name}"))


def set_not_null(table: str, column: str, *, schema: str = "billing") -> None:
    """Makes a column NOT NULL without a long lock: Postgres trusts a validated CHECK instead of reading the table."""
    name = f"{table}_{column}_not_null"
    replace_check(name, table, f"{column} IS NOT NULL", schema=schema)
    with op.get_context().autocommit_block():
        op.get_bind().execute(
            text(f"ALTER TABLE {schema}.{table} ALTER COLUMN {column} SET NOT NULL, DROP CONSTRAINT IF EXISTS {name}")
        )


def replace_primary_key(table: str, columns: Sequence[str], *, schema: str = "billing") -> None:
    """Gives a table another primary key. Its index is built without blocking writers; the swap takes a short lock."""
    name, listed = f"{table}_pkey", ", ".join(columns)
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        present = text(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conname = :name AND conrelid = to_regclass(:table)"
        )
        found = connection.execute(present, {"name": name, "table": f"{schema}.{table}"}).scalar()
        if found == f"PRIMARY KEY ({listed})":
            return
        connection.execute(text(f"SET lock_timeout = {_WAIT_MS}"))
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {schema}.{name}_new"))
        connection.execute(text(f"CREATE UNIQUE INDEX CONCURRENTLY {name}_new ON {schema}.{table} ({listed})"))
        connection.execute(text("SET lock_timeout = '3s'"))
        connection.execute(
            text(
                f"ALTER TABLE {schema}.{table} DROP CONSTRAINT IF EXISTS {name}, "
                f"ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {name}_new"
            )
        )
