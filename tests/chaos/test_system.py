"""Processes die under load; afterwards every row matches the log and each mail was sent once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import FaultKind
from tests.chaos.soak import SoakPlan, run

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.timeout(600)]

PLAN = SoakPlan(
    seed=20261123,
    events=2_500,
    customers=200,
    faults=4,
    kinds=(FaultKind.KILL_WORKER, FaultKind.KILL_GATEWAY, FaultKind.STOP_POSTGRES, FaultKind.KILL_DISPATCHER),
    workers=2,
    rate=150.0,
    overlapping=True,
)


async def test_nothing_is_lost_doubled_or_disordered_while_parts_die(tmp_path: Path) -> None:
    lines: list[str] = []
    report = await run(PLAN, tmp_path, lines.append)
    text = "\n".join([*lines, report.text()])
    print(text)  # noqa: T201 - pytest shows it where the test fails, and with -s
    assert set(report.recoveries) == set(PLAN.kinds), text
    assert report.is_clean, text
    assert report.verdict.findings.counted["events answered 200"] == PLAN.events, text
