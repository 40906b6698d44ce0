"""Alembic's environment: runs the revisions on the connection that sinks/postgres/migration.py passes."""

from __future__ import annotations

from alembic import context

from sinks.postgres.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=metadata.schema,
    include_schemas=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
