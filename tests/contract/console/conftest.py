"""Fixtures: a console on the test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.settings import Settings
from streams.brake import Brake, Limits
from tests.kits.consolekit import Browser, console_settings, serving
from tests.kits.replaykit import ReplayKit, open_kit


@pytest.fixture
def settings(database: SecretStr, kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> Settings:
    """Settings of the console."""
    return console_settings(database, kafka_bootstrap, topic_prefix, tmp_path)


@pytest.fixture
async def anyone(settings: Settings) -> AsyncIterator[Browser]:
    """A client without a session."""
    async with serving(settings) as browser:
        yield browser


@pytest.fixture
async def rig(kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    """A worker of notes, for drills with dead letters."""
    (tmp_path / "config.toml").write_text("")
    settings = {"config_path": tmp_path / "config.toml", "state_dir": tmp_path}
    async with open_kit(kafka_bootstrap, migrated_url, topic_prefix, settings) as made:
        patient = Brake(Limits(run=10**6, least=10**6))  # the drills are about the letters, not about the brake
        made.processor = replace(made.processor, brake=patient)
        yield made
