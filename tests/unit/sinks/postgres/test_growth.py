"""docs/operations.md says of each table what grows and what ends it."""

from __future__ import annotations

import re

from sinks.postgres.prune import STEPS
from sinks.postgres.tables import metadata
from tests.paths import ROOT


def documented() -> dict[str, str]:
    """The last column of the table in the section on growth, by table."""
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("## What grows and what ends it\n")[2].partition("\n## ")[0]
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {name: row[2] for row in cells for name in re.findall(r"`(\w+)`", row[0])}


def test_each_table_is_documented() -> None:
    assert set(documented()) == {str(table.name) for table in metadata.tables.values()}


def test_each_table_that_is_pruned_says_so_and_no_other() -> None:
    pruned = {step.table for step in STEPS} | {"event_objects"}
    assert {name for name, ends in documented().items() if "prune" in ends or "As of mails" in ends.title()} <= pruned
    assert {step.table for step in STEPS} <= {
        name for name, ends in documented().items() if "prune" in ends or "as of mails" in ends
    }
