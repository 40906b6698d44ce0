"""`billing worker`: which streams it may be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ops.cli import command_line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["invoces"], "no such stream: invoces"),
        (["--without", "invoces"], "no such stream: invoces"),
        (["invoices", "--without", "customers"], "not both"),
    ],
)
def test_what_it_cannot_run_is_said_before_anything_is_connected(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt stream would be a group that applies nothing, or a rest that leaves nothing out."""
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:9")
    monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://127.0.0.1:9/none")
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("BILLING_CONFIG", str(tmp_path / "config.toml"))
    done = CliRunner().invoke(command_line(["worker"]), ["worker", *arguments])
    assert (done.exit_code, said in done.output) == (2, True), done.output
