"""Times in options and in what commands print."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from ops.commands import times
from ops.commands.times import minute_text, moment_of, second_text

NOON = datetime(2026, 3, 1, 12, 0, 59, tzinfo=UTC)


def test_what_is_printed_can_be_given_back() -> None:
    assert moment_of(second_text(NOON), NOON) == NOON
    assert moment_of(minute_text(NOON), NOON) == NOON.replace(second=0)


def test_a_time_of_another_zone_is_printed_in_utc() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert (minute_text(there), second_text(there)) == ("2026-03-01 12:00 UTC", "2026-03-01 12:00:59 UTC")


@pytest.mark.parametrize("text", ["", " UTC", "UTC", "noon UTC", "24h UTC"])
def test_a_zone_alone_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        moment_of(text, NOON)


def test_no_command_prints_a_time_without_its_zone() -> None:
    home = Path(times.__file__).parent
    hours = re.compile(r"%(?:H|T|X|c)\b")
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted(home.rglob("*.py"))
        if path.name != "times.py"
        for line in path.read_text().splitlines()
        if hours.search(line)
    ]
    # The scope of the checks that an import begins is a key, not shown.
    assert [line for line in found if not line.startswith("import_.py: since=since, until=None, scope=")] == []
