"""Fixtures: a console on the test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.settings import Settings
from tests.kits.consolekit import Browser, console_settings, serving


@pytest.fixture
def settings(database: SecretStr, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> Settings:
    """Settings of the console."""
    return console_settings(database, kafka_bootstrap, topic_prefix, tmp_path)


@pytest.fixture
async def anyone(settings: Settings) -> AsyncIterator[Browser]:
    """A client without a session."""
    async with serving(settings) as browser:
        yield browser
