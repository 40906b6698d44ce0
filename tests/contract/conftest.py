"""Fixtures: the migrated database of one test, and a store on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from sinks.postgres.store import Store
from tests.databases import create_tables


@pytest.fixture
async def database(database_url: str) -> SecretStr:
    """Address of a database with all tables, all empty."""
    return await create_tables(database_url)


@pytest.fixture
async def store(database: SecretStr) -> AsyncIterator[Store]:
    opened = await Store.connect(database, pool_size=4)
    yield opened
    await opened.close()
