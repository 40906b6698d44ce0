"""`billing worker`: which streams it may be asked for."""

from __future__ import annotations

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
def test_what_it_cannot_run_is_said_before_anything_else(arguments: list[str], said: str) -> None:
    """A misspelt stream would be a group that applies nothing, or a rest that leaves nothing out."""
    done = CliRunner().invoke(command_line(["worker"]), ["worker", *arguments])
    assert (done.exit_code, said in done.output) == (2, True), done.output
