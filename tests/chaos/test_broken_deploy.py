"""A broken deploy: the brake stops a worker on which every event dies, the watchdog ends a worker that is stuck."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from eventlog import client
from eventlog.lag import lag_of
from local.stack.ports import free_port
from ops.runtime.exit_codes import ExitCode
from sinks.postgres.brakes import Brakes
from tests.kits import clikit
from tests.kits.replaykit import OPEN, ReplayKit, open_kit
from tests.waiting import eventually

pytestmark = pytest.mark.chaos

WINDOW, LEAST, RUN = 40, 10, 20


@pytest.fixture
async def rig(kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    (tmp_path / "config.toml").write_text("")
    settings = {"config_path": tmp_path / "config.toml", "state_dir": tmp_path}
    async with open_kit(kafka_bootstrap, migrated_url, topic_prefix, settings) as made:
        yield made


@contextmanager
def _worker(rig: ReplayKit, rule: str, **settings: str) -> Iterator[clikit.ForkedProcess]:
    env = {
        **os.environ,
        "BILLING_KAFKA_BOOTSTRAP": rig.settings.kafka_bootstrap,
        "BILLING_DATABASE_URL": rig.settings.database_url.get_secret_value(),
        "BILLING_CONFIG": str(rig.settings.config_path),
        "BILLING_TOPIC_PREFIX": rig.settings.topic_prefix,
        "BILLING_STATE_DIR": str(rig.settings.state_dir),
        "BILLING_SESSION_TIMEOUT_S": "6",
        "BILLING_BATCH_SIZE": "15",
        "BILLING_BRAKE_WINDOW": str(WINDOW),
        "BILLING_BRAKE_LEAST": str(LEAST),
        "BILLING_BRAKE_RUN": str(RUN),
        **{f"BILLING_{name.upper()}": value for name, value in settings.items()},
    }
    log = rig.settings.state_dir / "worker.log"
    with clikit.running([rule], env, log, module="tests.chaos.broken_worker") as process:
        yield process


async def _until(condition: Callable[[], object], process: clikit.ForkedProcess, log: Path) -> None:
    """Waits for a condition that blocks the thread."""
    await eventually(lambda: asyncio.to_thread(condition), process=process, log=log)


def _tail(log: Path) -> str:
    return log.read_text()[-3000:]


def _status(port: int, path: str) -> tuple[int, dict[str, dict[str, str]]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status, orjson.loads(answer.read())
    except urllib.error.HTTPError as refusal:
        return refusal.code, orjson.loads(refusal.read())
    except OSError:
        return 0, {}


async def test_a_broken_rule_stops_its_group_and_after_the_fix_all_is_applied(rig: ReplayKit) -> None:
    """At most one window of events is dead-lettered, nothing is lost, and replayed events keep their relative order."""
    log = rig.settings.state_dir / "worker.log"
    group = f"{rig.settings.topic_prefix}.worker"
    for n in range(60):
        rig.send(f"evt_{n:03}", "well")
    for n in range(60, 300):
        rig.send(f"evt_{n:03}", "well" if n % 5 == 0 else f"u{n % 3}")

    with _worker(rig, "raises") as worker:
        assert await asyncio.to_thread(worker.wait, 60) == ExitCode.BRAKED, log.read_text()[-3000:]
    letters = len(await rig.find())
    assert letters <= WINDOW
    held = await Brakes(rig.settings.database_url).last(group)
    assert held is not None
    assert held.holds(held.code_version)
    assert held.passed_at is None
    assert "AttributeError: 'Note' object has no attribute 'usr'" in held.reasons[0]
    assert "the brake holds" in log.read_text()

    port = free_port()
    with _worker(rig, "raises", ops_port=str(port)) as worker:  # as its supervisor would
        await _until(lambda: _status(port, "/readyz")[0] == 503, worker, log)
        assert _status(port, "/livez")[0] == 200
        await eventually(
            lambda: asyncio.to_thread(lambda: "events" in _status(port, "/readyz")[1]["checks"]["brake"]),
            process=worker,
            log=log,
        )
    assert len(await rig.find()) == letters, "a held worker processes nothing"

    with _worker(rig, "sound") as worker:
        await _until(lambda: _is_read(rig, group), worker, log)
        # Records that died after the last committed offset were read again, and are applied by now.
        still_open = {letter.event_id for letter in await rig.find(OPEN)}
        report = await rig.replay()
        assert report.replayed == len(still_open)
        await _until(lambda: _is_read(rig, group), worker, log)

    passed = await Brakes(rig.settings.database_url).last(group)
    assert passed is not None
    assert passed.passed_at is not None
    assert passed.passed_by not in (None, held.code_version)
    assert {status for found in (await rig.statuses()).values() for status in found} <= {"resolved"}
    assert await rig.rows("SELECT 1 FROM billing.events WHERE outcome <> 'applied'") == []
    due: dict[str, list[str]] = {}
    for n in range(300):
        due.setdefault("well" if n < 60 or n % 5 == 0 else f"u{n % 3}", []).append(f"evt_{n:03}")
    for user, trail in (await rig.trails()).items():
        ids = trail.split(",")
        assert sorted(ids) == due[user], "each once"
        assert ids == [i for i in due[user] if i not in still_open] + [i for i in due[user] if i in still_open]


async def test_a_stuck_worker_ends_itself_and_logs_where_it_hangs(rig: ReplayKit) -> None:
    """A thread sends the consumer's heartbeats, so without a watchdog the worker would keep its partition forever."""
    log = rig.settings.state_dir / "worker.log"
    rig.send("evt_1")
    rig.send("evt_2", text="block")
    rig.send("evt_3")

    with _worker(rig, "blocks", stuck_after_s="3", batch_size="1") as worker:
        assert await asyncio.to_thread(worker.wait, 60) == ExitCode.STUCK, log.read_text()[-3000:]
    stderr = log.read_text()
    assert "process.stuck" in stderr
    assert "the event loop has not turned" in stderr
    assert "in blocks" in stderr, "the traceback shows the rule"

    with _worker(rig, "sound") as worker:
        await eventually(
            lambda: asyncio.to_thread(lambda: _is_read(rig, f"{rig.settings.topic_prefix}.worker")),
            process=worker,
            log=log,
        )
    assert await rig.trails() == {"u1": "evt_1,block,evt_3"}


async def test_a_worker_whose_loop_stalls_for_ten_seconds_keeps_its_partitions(rig: ReplayKit) -> None:
    """Longer than the session of six seconds: a thread of its own sends the heartbeats. So the timeout can be short."""
    log, group = rig.settings.state_dir / "worker.log", f"{rig.settings.topic_prefix}.worker"
    rig.send("evt_1")
    with _worker(rig, "stalls") as worker:
        await _until(lambda: _is_read(rig, group), worker, log)
        before = await asyncio.to_thread(_members, rig, group)
        sent_at = time.monotonic()
        rig.send("evt_2", text="block")
        rig.send("evt_3")
        await _until(lambda: _is_read(rig, group), worker, log)
        # Not by `applied_at`: both may be in one batch, whose time is that of its start.
        assert time.monotonic() - sent_at > 6.0, "it was stalled for longer than the session"
        assert await asyncio.to_thread(_members, rig, group) == before, "the same member: no rebalance"
        assert len(before) == 1
    assert await rig.trails() == {"u1": "evt_1,block,evt_3"}


def _members(rig: ReplayKit, group: str) -> set[str]:
    """The ids of the group's members. The broker gives a member another id when it joins again after its session."""
    admin = client.admin(rig.settings.kafka)  # its futures end with it
    described = admin.describe_consumer_groups([group])[group].result(timeout=30)
    return {member.member_id for member in described.members}


def _is_read(rig: ReplayKit, group: str) -> bool:
    lag = lag_of(rig.settings.kafka, group, rig.settings.events_topic)
    return lag is not None and not any(lag.values())
