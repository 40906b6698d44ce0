"""`billing up` comes up while the brake holds, says how to release it, and everything else runs (D5, G29, G30)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import SecretStr

from local.system import System
from sinks.postgres.brakes import Brakes
from streams.build import build_id
from streams.rules.catalog import RULES
from tests.kits.systemkit import running_system

GROUP = "billing.worker"
BUILD = build_id(RULES)


def _brakes(system: System) -> Brakes:
    return Brakes(SecretStr(system.env["BILLING_DATABASE_URL"]))


def _hold(system: System) -> None:
    asyncio.run(_brakes(system).trip(GROUP, "20 events in a row died", ["20 times RuleViolated"], BUILD))


def test_a_system_whose_brake_holds_starts_and_applies_after_the_release(tmp_path: Path) -> None:
    """First the build that its own brake holds, then a build that another build's brake does not hold."""
    lines: list[str] = []
    with running_system(tmp_path / "state", say=lines.append, prepare=_hold) as system:
        (line,) = [line for line in lines if "the brake holds" in line]
        assert line.startswith("worker-1: ")
        assert "20 times RuleViolated" in line
        assert "`billing brake release`" in line
        assert asyncio.run(_brakes(system).release(GROUP, "me", let_die=0))
        system.wait_ready("worker-1")

        asyncio.run(_brakes(system).trip(GROUP, "20 events in a row died", [], "A"))
        system.terminate("worker-1")
        system.start_again("worker-1")
        system.wait_ready("worker-1")
        held = asyncio.run(_brakes(system).last(GROUP))
        assert held is not None
        assert (held.passed_by, held.passed_at is not None) == (BUILD, True)
        assert held.holds("A")
        assert not held.holds(BUILD)
    assert [line for line in lines if "brake" in line] == [line]
