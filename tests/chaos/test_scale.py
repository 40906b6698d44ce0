"""Workers join, leave and die under load: nothing is lost, doubled or reordered, and no partition pauses for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.scale import ScalePlan, run

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.timeout(600)]

PLAN = ScalePlan(seed=20261126, customers=100, workers=(1, 2, 1), hold_s=2.0, rate=50.0, kill_worker=True)


async def test_workers_come_and_go_and_nothing_is_lost(tmp_path: Path) -> None:
    """A killed worker is restarted before its session times out, and gets its partitions back."""
    lines: list[str] = []
    report = await run(PLAN, tmp_path, lines.append)
    text = "\n".join([*lines, report.text()])
    print(text)  # noqa: T201 - pytest shows it where the test fails, and with -s
    assert report.verdict.is_clean, text
    assert [change.name for change, _ in report.changes][1:] == [
        "1 to 2 workers",
        "kill -9 one worker",
        "2 to 1 workers",
    ]
