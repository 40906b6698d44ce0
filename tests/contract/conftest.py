"""Fixtures: the migrated database of one test, and a store on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from sinks.postgres.store import Store


@pytest.fixture
def database(migrated_url: str) -> SecretStr:
    """Address of a database with all tables, all empty."""
    return SecretStr(migrated_url)


@pytest.fixture
async def store(database: SecretStr) -> AsyncIterator[Store]:
    opened = await Store.connect(database, pool_size=4)
    yield opened
    await opened.close()
