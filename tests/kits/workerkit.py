"""A worker of the notes stream as a process, and what tests of Kafka's and Postgres' state do around it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from eventlog.lag import GroupPosition, GroupPositions
from ops.runtime.exit_codes import ExitCode
from tests.kits import clikit
from tests.kits.replaykit import ReplayKit, open_kit
from tests.waiting import eventually

WITHIN_S = 90.0


@asynccontextmanager
async def open_rig(bootstrap: str, url: str, prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    """Topics with two partitions and a migrated database, without a worker."""
    (tmp_path / "config.toml").write_text("")
    settings = {"config_path": tmp_path / "config.toml", "state_dir": tmp_path}
    async with open_kit(bootstrap, url, prefix, settings) as made:
        await made.processor.store.close()
        yield made


def environment(rig: ReplayKit, **settings: str) -> dict[str, str]:
    return {
        **os.environ,
        "BILLING_KAFKA_BOOTSTRAP": rig.settings.kafka_bootstrap,
        "BILLING_DATABASE_URL": rig.settings.database_url.get_secret_value(),
        "BILLING_CONFIG": str(rig.settings.config_path),
        "BILLING_TOPIC_PREFIX": rig.settings.topic_prefix,
        "BILLING_STATE_DIR": str(rig.settings.state_dir),
        "BILLING_SESSION_TIMEOUT_S": "6",
        **settings,
    }


@contextmanager
def running_worker(rig: ReplayKit, **settings: str) -> Iterator[clikit.ForkedProcess]:
    log, env = rig.settings.state_dir / "worker.log", environment(rig, **settings)
    with clikit.running(["sound"], env, log, module="tests.chaos.broken_worker") as process:
        yield process


def log_of(rig: ReplayKit) -> str:
    return (rig.settings.state_dir / "worker.log").read_text()


async def until(rig: ReplayKit, condition: Callable[[], Awaitable[bool]]) -> None:
    await eventually(condition, within_s=WITHIN_S, log=rig.settings.state_dir / "worker.log")


async def applied(rig: ReplayKit) -> int:
    (row,) = await rig.rows("SELECT count(*) AS n FROM billing.events WHERE outcome = 'applied'")
    return int(row["n"])


async def until_applied(rig: ReplayKit, count: int) -> None:
    async def is_so() -> bool:
        return await applied(rig) == count

    await until(rig, is_so)


def send(rig: ReplayKit, numbers: range) -> None:
    for n in numbers:
        rig.send(f"evt_{n:03}", f"u{n % 5}")


async def applied_and_stopped(rig: ReplayKit, count: int) -> None:
    """Run a worker until `count` events are applied, then stop it in order."""
    with running_worker(rig) as process:
        await until_applied(rig, count)
        await eventually(lambda: asyncio.to_thread(_is_all_committed, rig), "the group's commit", within_s=WITHIN_S)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == ExitCode.DONE


def billing(rig: ReplayKit, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return clikit.billing(arguments, environment(rig, **settings))


def _is_all_committed(rig: ReplayKit) -> bool:
    """Whether Kafka claims the same as the database after all records were read."""
    positions = group_positions(rig)
    return bool(positions) and not any(position.lag for position in positions.values())


def group_positions(rig: ReplayKit) -> dict[int, GroupPosition]:
    positions = GroupPositions(rig.settings.kafka, f"{rig.settings.topic_prefix}.worker", rig.settings.events_topic)
    try:
        return positions.read() or {}
    finally:
        positions.close()
