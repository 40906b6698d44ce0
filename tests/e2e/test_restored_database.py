"""The database is the authority on position: what it lacks is applied again, whatever Kafka claims (T11, T12).

A restore is simulated exactly: a copy of the database is made with CREATE DATABASE … TEMPLATE, and later takes the
original's name.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import orjson
import pytest
from confluent_kafka import TopicPartition

from eventlog import client
from eventlog.lag import GroupPosition, GroupPositions
from ops.runtime.exit_codes import ExitCode
from tests.databases import create_tables
from tests.kits import clikit
from tests.kits.replaykit import ReplayKit, open_kit
from tests.waiting import eventually

WITHIN_S = 90.0


@pytest.fixture
async def rig(kafka_bootstrap: str, database_url: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    (tmp_path / "config.toml").write_text("")
    settings = {"config_path": tmp_path / "config.toml", "state_dir": tmp_path}
    async with open_kit(kafka_bootstrap, database_url, topic_prefix, settings) as made:
        await made.processor.store.close()
        yield made


def _environment(rig: ReplayKit, **settings: str) -> dict[str, str]:
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
def _worker(rig: ReplayKit, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    with (rig.settings.state_dir / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.broken_worker", "sound"],
            env=_environment(rig, **settings),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5)


def _log(rig: ReplayKit) -> str:
    return (rig.settings.state_dir / "worker.log").read_text()


async def _applied(rig: ReplayKit) -> int:
    (row,) = await rig.rows("SELECT count(*) AS n FROM billing.events WHERE outcome = 'applied'")
    return int(row["n"])


async def _until_applied(rig: ReplayKit, count: int) -> None:
    async def is_so() -> bool:
        return await _applied(rig) == count

    await eventually(is_so, within_s=WITHIN_S, log=rig.settings.state_dir / "worker.log")


class Copies:
    """Copies and restores the database of a test."""

    def __init__(self, rig: ReplayKit) -> None:
        url = urlsplit(rig.settings.database_url.get_secret_value())
        self._server = urlunsplit(url._replace(path="/postgres"))
        self._name = url.path.lstrip("/")

    async def _run(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._server, timeout=10)
        try:
            for statement in statements:
                await connection.execute(statement, timeout=60)
        finally:
            await connection.close()

    async def take(self) -> None:
        await self._run(f"CREATE DATABASE {self._name}_copy TEMPLATE {self._name} STRATEGY file_copy")

    async def restore(self) -> None:
        await self._run(
            f"DROP DATABASE {self._name} WITH (FORCE)", f"ALTER DATABASE {self._name}_copy RENAME TO {self._name}"
        )


def _send(rig: ReplayKit, numbers: range) -> None:
    for n in numbers:
        rig.send(f"evt_{n:03}", f"u{n % 5}")


async def _applied_and_stopped(rig: ReplayKit, count: int) -> None:
    """Run a worker until `count` events are applied, then stop it in order."""
    with _worker(rig) as process:
        await _until_applied(rig, count)
        await asyncio.sleep(1.5)  # the commit interval: Kafka then claims the same as the database
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == ExitCode.DONE


async def test_T11_a_restored_database_catches_up_from_the_log_and_no_mail_leaves_twice(rig: ReplayKit) -> None:
    copies = Copies(rig)
    _send(rig, range(20))
    await _applied_and_stopped(rig, 20)
    await copies.take()
    _send(rig, range(20, 40))
    await _applied_and_stopped(rig, 40)
    assert "database_behind" not in _log(rig)  # an ordinary restart is silent

    await copies.restore()
    assert await _applied(rig) == 20
    await _applied_and_stopped(rig, 40)

    assert _log(rig).count('"action":"worker.database_behind"') == 1
    mails = await rig.rows("SELECT event_id, status, last_error FROM billing.emails ORDER BY event_id")
    assert [mail["event_id"] for mail in mails] == [f"evt_{n:03}" for n in range(40)]
    assert {mail["status"] for mail in mails} == {"withheld"}  # none was sent: a dispatcher may have sent each of them
    assert all("before the database was restored" in mail["last_error"] for mail in mails)

    _send(rig, range(40, 45))
    await _applied_and_stopped(rig, 45)
    (row,) = await rig.rows("SELECT count(*) AS n FROM billing.emails WHERE status = 'queued'")
    assert row["n"] == 5  # mails of new events leave as usual
    assert _log(rig).count('"action":"worker.database_behind"') == 1


async def test_T11_a_database_restored_under_a_running_worker_ends_it_and_its_next_start_catches_up(
    rig: ReplayKit,
) -> None:
    """The same as a replica without the last commits that is promoted: sessions are cut, commits are missing."""
    copies = Copies(rig)
    _send(rig, range(20))
    await _applied_and_stopped(rig, 20)
    await copies.take()
    _send(rig, range(20, 40))
    with _worker(rig) as process:
        await _until_applied(rig, 40)
        await copies.restore()
        assert await asyncio.to_thread(process.wait, 60) == ExitCode.STUCK
    assert "the database stands at" in _log(rig)
    await _applied_and_stopped(rig, 40)


async def test_T11_an_event_fed_again_by_a_repair_is_applied_although_the_table_has_its_id(rig: ReplayKit) -> None:
    _send(rig, range(3))
    with _worker(rig) as process:
        await _until_applied(rig, 3)
        await rig.rows("DELETE FROM billing.events")
        await rig.rows("DELETE FROM billing.emails")
        _send(rig, range(2))  # Stripe's own delivery again: the table answers
        for n, source in ((1, b"replay"), (2, b"reconcile")):
            rig.send(f"evt_{n:03}", f"u{n % 5}", headers=(("source", source),))
        await _until_applied(rig, 2)
        assert process.poll() is None
    assert {row["event_id"] for row in await rig.rows("SELECT event_id FROM billing.events")} == {"evt_001", "evt_002"}


async def test_T12_a_second_database_is_refused_and_a_deliberate_move_is_one_command(rig: ReplayKit) -> None:
    _send(rig, range(10))
    await _applied_and_stopped(rig, 10)
    (own,) = await rig.rows("SELECT database_id FROM billing.database_identity")
    url = urlsplit(rig.settings.database_url.get_secret_value())
    other = urlunsplit(url._replace(path=f"{url.path}_other"))
    await create_tables(other)
    connection = await asyncpg.connect(other, timeout=10)
    await connection.execute("UPDATE billing.database_identity SET database_id = 'another-one'")

    done = await asyncio.to_thread(_billing, rig, "worker", BILLING_DATABASE_URL=other)
    assert done.returncode == ExitCode.USAGE, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "belongs to database" in line]
    assert own["database_id"] in line
    assert "another-one" in line
    _send(rig, range(10, 20))
    await _applied_and_stopped(rig, 20)

    done = await asyncio.to_thread(_billing, rig, "adopt", BILLING_DATABASE_URL=other)
    assert (done.returncode, own["database_id"] in done.stdout) == (0, True), done.stderr
    with _worker(rig, BILLING_DATABASE_URL=other):  # empty: it reads the whole log

        async def has_all() -> bool:
            return bool(await connection.fetchval("SELECT count(*) = 20 FROM billing.events"))

        await eventually(has_all, within_s=WITHIN_S, log=rig.settings.state_dir / "worker.log")
    await connection.close()


def _billing(rig: ReplayKit, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return clikit.billing(arguments, _environment(rig, **settings))


async def test_T13_unread_records_that_retention_removed_are_counted_in_one_error_line(rig: ReplayKit) -> None:
    _send(rig, range(10))
    await _applied_and_stopped(rig, 10)
    for n in range(10, 40):
        rig.send(f"evt_{n:03}", "u1")
    ends = {partition: position.end for partition, position in _positions(rig).items()}
    admin = client.admin(rig.settings.kafka)
    wanted = [TopicPartition(rig.settings.events_topic, partition, end) for partition, end in ends.items()]
    for removal in admin.delete_records(wanted).values():
        removal.result(timeout=15)
    rig.send("evt_040", "u1")

    await _applied_and_stopped(rig, 11)

    lines = [line for line in _log(rig).splitlines() if '"action":"consumer.records_removed"' in line]
    assert [orjson.loads(line)["records"] for line in lines] == [30]
    assert "billing reconcile" in lines[0]


def _positions(rig: ReplayKit) -> dict[int, GroupPosition]:
    positions = GroupPositions(rig.settings.kafka, f"{rig.settings.topic_prefix}.worker", rig.settings.events_topic)
    try:
        return positions.read() or {}
    finally:
        positions.close()
