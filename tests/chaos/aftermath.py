"""What an operator does after a chaos run: rebuild and compare the database, then replay all dead events after a fix.

It uses the `billing` commands for that, on the database that the run left.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from local.stack.ports import free_port
from tests.chaos.ending import Ending
from tests.kits.systemkit import RiggedSystem, fetch
from tests.paths import ROOT
from tests.waiting import eventually

_COMMAND_WITHIN_S = 900.0
_REPLAYED_WITHIN_S = 300.0

_LETTERS = "SELECT status, count(*) AS letters FROM billing.dead_letters GROUP BY status"
_DEAD = "SELECT count(*) AS events FROM billing.events WHERE outcome = 'dead'"


@dataclass(frozen=True, slots=True)
class Aftermath:
    """Output of the commands, and the number of dead letters by status after the replay."""

    rebuilt: str
    compared: str
    is_equal: bool
    replayed: str
    letters: dict[str, int]
    dead: int
    """Events that are still dead."""

    @property
    def is_clean(self) -> bool:
        return self.is_equal and not self.dead and self.letters.keys() <= {"resolved"}

    def lines(self) -> list[str]:
        return [
            "billing rebuild:",
            *(f"  {line}" for line in self.rebuilt.splitlines()),
            "billing diff:",
            *(f"  {line}" for line in self.compared.splitlines()),
            "billing dead replay, after the fix:",
            *(f"  {line}" for line in self.replayed.splitlines()),
            f"  letters by status: {self.letters or 'none'}, events still dead: {self.dead}",
        ]


async def run_aftermath(system: RiggedSystem, ending: Ending) -> Aftermath:
    """Run rebuild, diff and replay. At the end the mended worker's results are stored and no worker runs."""
    rehearsal = await _empty_database(system, "rehearsal")
    _, rebuilt = await _billing(system, "rebuild", BILLING_REBUILD_URL=rehearsal)
    code, compared = await _billing(system, "diff", BILLING_REBUILD_URL=rehearsal)
    replayed = await _replay_all(system, ending)
    letters = {row["status"]: row["letters"] for row in await fetch(system, _LETTERS)}
    (dead,) = await fetch(system, _DEAD)
    return Aftermath(rebuilt, compared, code == 0, replayed, letters, dead["events"])


async def _replay_all(system: RiggedSystem, ending: Ending) -> str:
    for name in system.parts:
        if name.startswith("worker-"):
            await asyncio.to_thread(system.terminate, name)
    log = system.state_dir / "logs" / "worker-mended.log"
    worker = _mended_worker(system, log)
    try:
        _, output = await _billing(system, "dead", "replay", "--limit", "1000000")

        async def all_are_closed() -> bool:
            if worker.poll() is not None:
                raise RuntimeError(f"the mended worker ended with {worker.returncode}:\n{log.read_text()[-2000:]}")
            return {row["status"] for row in await fetch(system, _LETTERS)} <= {"resolved"}

        await eventually(all_are_closed, within_s=_REPLAYED_WITHIN_S, every_s=0.2)
        await ending.become_quiet()
    finally:
        worker.terminate()
        await asyncio.to_thread(worker.wait, 60)
    return output


def _mended_worker(system: RiggedSystem, log: Path) -> subprocess.Popen[bytes]:
    environment = system.environment("worker-mended") | {"BILLING_OPS_PORT": str(free_port())}
    command = [sys.executable, "-m", "tests.chaos.mended_worker"]
    with log.open("wb") as out:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)


async def _empty_database(system: RiggedSystem, name: str) -> str:
    connection = await asyncpg.connect(system.postgres.url, timeout=30)
    try:
        await connection.execute(f"CREATE DATABASE {name}", timeout=30)
    finally:
        await connection.close(timeout=30)
    return f"{system.postgres.url.rpartition('/')[0]}/{name}"


async def _billing(system: RiggedSystem, *words: str, **more: str) -> tuple[int, str]:
    """Exit code and output of one command. Raises TimeoutExpired."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ops.cli", *words],
        cwd=ROOT,
        env=system.environment(words[0]) | more,
        capture_output=True,
        text=True,
        timeout=_COMMAND_WITHIN_S,
        check=False,
    )
    return done.returncode, (done.stdout + (done.stderr if done.returncode else "")).strip()
