"""A migrated database with the roles of one test (sinks/postgres/roles.py)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from pydantic import SecretStr

from sinks.postgres.migration import migrate
from sinks.postgres.roles import ROLES


@dataclass
class RoleDatabase:
    """A migrated database with the roles of one test."""

    connection: asyncpg.Connection[asyncpg.Record]
    prefix: str

    async def run(self, role: str, statement: str) -> str:
        """Run the statement as this role and roll it back. Return "" or the refusal."""
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            await self.connection.execute(f'SET LOCAL ROLE "{self.prefix}_{role}"')
            await self.connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError as error:
            return str(error)
        finally:
            await transaction.rollback()
        return ""


@asynccontextmanager
async def open_server(database: SecretStr) -> AsyncIterator[RoleDatabase]:
    """Create the roles, and drop them when the block ends."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    migrated = await migrate(database, role_prefix=prefix, creates_roles=True)
    assert sorted(migrated.roles) == sorted(f"{prefix}_{role.name}" for role in ROLES)
    connection = await asyncpg.connect(database.get_secret_value(), timeout=30)
    try:
        yield RoleDatabase(connection, prefix)
    finally:
        for role in ROLES:
            await connection.execute(f'DROP OWNED BY "{prefix}_{role.name}"')
            await connection.execute(f'DROP ROLE "{prefix}_{role.name}"')
        await connection.close()
