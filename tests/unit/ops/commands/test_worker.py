"""`billing worker`: the streams that can be selected."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ops.cli import command_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["invoces"], "no such stream: invoces"),
        (["--without", "invoces"], "no such stream: invoces"),
        (["invoices", "--without", "customers"], "not both"),
    ],
)
def test_unknown_streams_are_reported_before_anything_else(arguments: list[str], message: str) -> None:
    """A misspelt stream name would start a group that applies nothing, or exclude nothing."""
    done = CliRunner().invoke(command_line(["worker"]), ["worker", *arguments])
    assert (done.exit_code, message in done.output) == (2, True), done.output
