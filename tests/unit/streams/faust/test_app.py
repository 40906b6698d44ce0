"""The options and parts of the Faust app that differ from Faust's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from schemas.settings import Settings
from streams.faust.app import Tables, create_app


@pytest.mark.parametrize(("is_stopping", "expected"), [(False, ["channels", "recovery"]), (True, [])])
async def test_tables_are_registered_at_the_start_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stopping: bool, expected: list[str]
) -> None:
    """The channels first: the consumer subscribes to the changelog of each table that has one.

    Nothing is started during a stop.
    """
    tables = create_app(Settings.model_construct(kafka_bootstrap="a:1", state_dir=tmp_path), "g", 1).tables
    assert isinstance(tables, Tables)
    steps: list[str] = []

    async def registered() -> None:
        steps.append("channels")

    async def recovering() -> None:
        steps.append("recovery")

    async def slept(_seconds: float) -> None:
        steps.append("sleep")

    monkeypatch.setattr(tables, "_update_channels", registered)
    monkeypatch.setattr(tables, "_recovery", SimpleNamespace(start=recovering))
    monkeypatch.setattr(tables, "sleep", slept)
    monkeypatch.setattr(Tables, "should_stop", is_stopping)
    await tables.on_start()
    assert steps == expected
