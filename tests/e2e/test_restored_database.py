"""The database is the authority on position: what it lacks is applied again, whatever Kafka claims (T11, T12).

A restore is simulated exactly: a copy of the database is made with CREATE DATABASE … TEMPLATE, and later takes the
original's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import orjson
import pytest
from confluent_kafka import TopicPartition

from eventlog import client
from eventlog.groups import Groups
from eventlog.topics import changelog_of
from ops.runtime.exit_codes import ExitCode
from tests.databases import create_tables
from tests.kits.replaykit import ReplayKit
from tests.kits.workerkit import (
    applied,
    applied_and_stopped,
    billing,
    group_positions,
    log_of,
    open_rig,
    running_worker,
    send,
    until,
    until_applied,
)


@pytest.fixture
async def rig(kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    async with open_rig(kafka_bootstrap, migrated_url, topic_prefix, tmp_path) as made:
        yield made


class Copies:
    """Copies and restores the database of a test."""

    def __init__(self, rig: ReplayKit) -> None:
        url = urlsplit(rig.settings.database_url.get_secret_value())
        self._server = urlunsplit(url._replace(path="/postgres"))
        self._name = url.path.lstrip("/")

    async def _run(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._server, timeout=30)
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


async def test_T11_a_restored_database_catches_up_from_the_log_and_no_mail_leaves_twice(rig: ReplayKit) -> None:
    copies = Copies(rig)
    send(rig, range(20))
    await applied_and_stopped(rig, 20)
    await copies.take()
    send(rig, range(20, 40))
    await applied_and_stopped(rig, 40)
    assert "database_behind" not in log_of(rig)  # an ordinary restart is silent

    await copies.restore()
    assert await applied(rig) == 20
    await applied_and_stopped(rig, 40)

    assert log_of(rig).count('"action":"worker.database_behind"') == 1
    mails = await rig.rows("SELECT event_id, status, last_error FROM billing.emails ORDER BY event_id")
    assert [mail["event_id"] for mail in mails] == [f"evt_{n:03}" for n in range(40)]
    assert {mail["status"] for mail in mails} == {"withheld"}  # none was sent: a dispatcher may have sent each of them
    assert all("before the database was restored" in mail["last_error"] for mail in mails)

    send(rig, range(40, 45))
    await applied_and_stopped(rig, 45)
    (row,) = await rig.rows("SELECT count(*) AS n FROM billing.emails WHERE status = 'queued'")
    assert row["n"] == 5  # mails of new events leave as usual
    assert log_of(rig).count('"action":"worker.database_behind"') == 1


@pytest.mark.parametrize("is_changelog_lost", [False, True])
async def test_T11_offsets_set_to_0_after_a_restore_apply_what_the_database_lacks(
    rig: ReplayKit, is_changelog_lost: bool
) -> None:
    """The table of settled ids has the lost events. It is not asked about what was settled after the copy."""
    copies = Copies(rig)
    send(rig, range(10))
    await applied_and_stopped(rig, 10)
    await copies.take()
    send(rig, range(10, 20))
    await applied_and_stopped(rig, 20)
    await copies.restore()
    topic, group = rig.settings.events_topic, f"{rig.settings.topic_prefix}.worker"
    Groups(rig.settings.kafka).commit(group, topic, {0: 0, 1: 0})
    if is_changelog_lost:
        admin, changelog = client.admin(rig.settings.kafka), changelog_of(group)
        admin.delete_topics([changelog])[changelog].result(timeout=30)

    await applied_and_stopped(rig, 20)

    trails = await rig.trails()
    assert sorted(",".join(trails.values()).split(",")) == [f"evt_{n:03}" for n in range(20)]


async def test_T11_a_database_restored_under_a_running_worker_ends_it_and_its_next_start_catches_up(
    rig: ReplayKit,
) -> None:
    """The same as a replica without the last commits that is promoted: sessions are cut, commits are missing."""
    copies = Copies(rig)
    send(rig, range(20))
    await applied_and_stopped(rig, 20)
    await copies.take()
    send(rig, range(20, 40))
    with running_worker(rig) as process:
        await until_applied(rig, 40)
        await copies.restore()
        assert await asyncio.to_thread(process.wait, 60) == ExitCode.STUCK
    assert "the database has reached" in log_of(rig)
    await applied_and_stopped(rig, 40)


async def test_T11_an_event_fed_again_by_a_repair_is_applied_although_the_table_has_its_id(rig: ReplayKit) -> None:
    send(rig, range(3))
    with running_worker(rig) as process:
        await until_applied(rig, 3)
        await rig.rows("DELETE FROM billing.events")
        await rig.rows("DELETE FROM billing.emails")
        send(rig, range(2))  # Stripe's own delivery again: the table answers
        for n, source in ((1, b"replay"), (2, b"reconcile")):
            rig.send(f"evt_{n:03}", f"u{n % 5}", headers=(("source", source),))
        await until_applied(rig, 2)
        assert process.poll() is None
    assert {row["event_id"] for row in await rig.rows("SELECT event_id FROM billing.events")} == {"evt_001", "evt_002"}


async def test_T12_a_second_database_is_refused_and_a_deliberate_move_is_one_command(rig: ReplayKit) -> None:
    send(rig, range(10))
    await applied_and_stopped(rig, 10)
    (own,) = await rig.rows("SELECT database_id FROM billing.database_identity")
    url = urlsplit(rig.settings.database_url.get_secret_value())
    other = urlunsplit(url._replace(path=f"{url.path}_other"))
    await create_tables(other)
    connection = await asyncpg.connect(other, timeout=30)
    await connection.execute("UPDATE billing.database_identity SET database_id = 'another-one'")

    done = await asyncio.to_thread(billing, rig, "worker", BILLING_DATABASE_URL=other)
    assert done.returncode == ExitCode.USAGE, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "belongs to database" in line]
    assert own["database_id"] in line
    assert "another-one" in line
    send(rig, range(10, 20))
    await applied_and_stopped(rig, 20)

    done = await asyncio.to_thread(billing, rig, "adopt", BILLING_DATABASE_URL=other)
    assert (done.returncode, own["database_id"] in done.stdout) == (0, True), done.stderr
    with running_worker(rig, BILLING_DATABASE_URL=other):  # empty: it reads the whole log

        async def has_all() -> bool:
            return bool(await connection.fetchval("SELECT count(*) = 20 FROM billing.events"))

        await until(rig, has_all)
    await connection.close()


async def test_T13_unread_records_that_retention_removed_are_counted_in_one_error_line(rig: ReplayKit) -> None:
    send(rig, range(10))
    await applied_and_stopped(rig, 10)
    for n in range(10, 40):
        rig.send(f"evt_{n:03}", "u1")
    ends = {partition: position.end for partition, position in group_positions(rig).items()}
    admin = client.admin(rig.settings.kafka)
    wanted = [TopicPartition(rig.settings.events_topic, partition, end) for partition, end in ends.items()]
    for removal in admin.delete_records(wanted).values():
        removal.result(timeout=30)
    rig.send("evt_040", "u1")

    await applied_and_stopped(rig, 11)

    lines = [line for line in log_of(rig).splitlines() if '"action":"consumer.records_removed"' in line]
    assert [orjson.loads(line)["records"] for line in lines] == [30]
    assert "billing reconcile" in lines[0]
    gaps = await rig.rows("SELECT gap_since, gap_noted_at FROM billing.positions WHERE gap_since IS NOT NULL")
    assert len(gaps) == 1  # all notes are of one customer; the scheduler reconciles from there on
    assert gaps[0]["gap_since"] < gaps[0]["gap_noted_at"]
