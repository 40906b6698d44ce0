"""Topics that an operator changed: more partitions (T16), deleted and created again (T15), other settings (T18)."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewPartitions
from typer.testing import CliRunner

from eventlog import client
from eventlog.groups import Groups
from local.stack.ports import free_port
from ops.cli import command_line
from ops.runtime.exit_codes import ExitCode
from recovery.repartition import repartition
from tests.kits.replaykit import ReplayKit
from tests.kits.workerkit import (
    applied,
    applied_and_stopped,
    billing,
    environment,
    group_positions,
    log_of,
    open_rig,
    running_worker,
    send,
    until,
    until_applied,
)
from tests.waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
async def rig(kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    async with open_rig(kafka_bootstrap, migrated_url, topic_prefix, tmp_path) as made:
        yield made


def _grow(rig: ReplayKit, topic: str, count: int) -> None:
    admin = client.admin(rig.settings.kafka)
    admin.create_partitions([NewPartitions(topic, count)])[topic].result(timeout=30)


async def _until_shown(port: int, text: str) -> None:
    """Wait until /readyz shows the text."""
    async with aiohttp.ClientSession() as session:

        async def is_shown() -> bool:
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                    return text in await response.text()
            except aiohttp.ClientConnectionError:
                return False

        await eventually(is_shown, f"/readyz to show {text!r}", every_s=0.2)


def _count(rig: ReplayKit, topic: str) -> int:
    return len(
        client.cluster_metadata(client.admin(rig.settings.kafka), rig.settings.kafka, topic).topics[topic].partitions
    )


async def test_T16_grown_partitions_are_refused_and_repartition_keeps_the_order_per_customer(rig: ReplayKit) -> None:
    send(rig, range(20))
    await applied_and_stopped(rig, 20)
    send(rig, range(20, 40))  # unread, by the old count
    _grow(rig, rig.settings.events_topic, 4)
    rig.producer = client.producer(rig.settings.kafka, client_id="test")  # knows the new count, as a restarted gateway
    send(rig, range(40, 60))

    refused = await asyncio.to_thread(billing, rig, "worker")
    assert refused.returncode == ExitCode.USAGE, refused.stderr
    (line,) = [line for line in refused.stderr.splitlines() if "they must be equal" in line]
    assert f"{rig.settings.events_topic} has 4 partitions, but {rig.settings.dead_topic} 2" in line
    assert "billing topics --repartition 4" in line

    fewer = await asyncio.to_thread(billing, rig, "topics", "--repartition", "2")
    assert (fewer.returncode, "can't remove any" in fewer.stderr) == (ExitCode.NO, True), fewer.stderr
    done = await asyncio.to_thread(billing, rig, "topics", "--repartition", "4")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert "40 unread events of 5 customers moved" in done.stdout
    recorded = await rig.rows("SELECT outcome, count, filter::text FROM billing.audit_log ORDER BY entry_id")
    assert [(one["outcome"], one["count"]) for one in recorded] == [("refused", None), ("done", 40)]
    assert recorded[1]["filter"] == '{"repartition": 4}'
    counts = {
        _count(rig, f"{rig.settings.topic_prefix}{name}") for name in (".dead", ".events", ".worker-seen-changelog")
    }
    assert counts == {4}
    again = await asyncio.to_thread(billing, rig, "topics", "--repartition", "4")
    assert (again.returncode, "moved" in again.stdout) == (ExitCode.DONE, False), again.stderr

    send(rig, range(60, 70))
    await applied_and_stopped(rig, 70)

    wanted = defaultdict(list)
    for n in range(70):
        wanted[f"u{n % 5}"].append(f"evt_{n:03}")
    assert await rig.trails() == {user: ",".join(ids) for user, ids in wanted.items()}


async def test_T16_repartition_is_refused_while_a_worker_runs(rig: ReplayKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """It first waits for the session of a worker that may have died, which takes 15 s; here hardly at all."""
    monkeypatch.setattr(repartition, "NAMED_SESSION_S", 0.0)
    monkeypatch.setattr(repartition, "_EMPTY_S", -6.0)
    asked = partial(CliRunner().invoke, command_line(["tap", "topics"]), ["topics", "--repartition", "4"])
    with running_worker(rig):
        send(rig, range(5))
        await until_applied(rig, 5)
        done = await asyncio.to_thread(asked, env=environment(rig))
    assert done.exit_code == ExitCode.NO
    assert f"{rig.settings.topic_prefix}.worker (1)" in done.stderr
    assert _count(rig, rig.settings.events_topic) == 2


async def test_T15_a_topic_that_is_deleted_and_created_again_ends_the_worker_and_the_next_one_reads_it_all(
    rig: ReplayKit,
) -> None:
    port, topic = free_port(), rig.settings.events_topic
    admin = client.admin(rig.settings.kafka)
    with running_worker(rig, BILLING_OPS_PORT=str(port), BILLING_STUCK_AFTER_S="16") as process:
        send(rig, range(10))
        await until_applied(rig, 10)
        await _until_shown(port, '"status": "ok"')
        admin.delete_topics([topic])[topic].result(timeout=30)
        await _until_shown(port, "there is no topic")
        await asyncio.to_thread(billing, rig, "topics", BILLING_PARTITIONS="2")
        rig.producer = client.producer(rig.settings.kafka, client_id="test")
        send(rig, range(10, 34))
        assert await asyncio.to_thread(process.wait, 60) == ExitCode.STUCK
    assert "was deleted and created again" in log_of(rig)
    assert await applied(rig) == 10
    # As if the brokers had kept the group's offsets: what they say is of the topic that is gone.
    ends = {partition: position.end for partition, position in group_positions(rig).items()}
    groups, group = Groups(rig.settings.kafka), f"{rig.settings.topic_prefix}.worker"

    async def is_empty() -> bool:
        return not groups.members([group])

    await until(rig, is_empty)  # the session of the worker that ended at once
    groups.commit(group, topic, ends)

    await applied_and_stopped(rig, 34)

    assert log_of(rig).count('"action":"worker.topic_recreated"') == 1
    send(rig, range(34, 36))
    await applied_and_stopped(rig, 36)
    assert log_of(rig).count('"action":"worker.topic_recreated"') == 1  # an ordinary start is silent


async def test_T18_topics_and_each_start_name_each_setting_that_does_not_fit(rig: ReplayKit) -> None:
    settings = {
        rig.settings.events_topic: {"max.message.bytes": "100000", "cleanup.policy": "compact"},
        rig.settings.dead_topic: {"retention.ms": "-1", "min.insync.replicas": "2"},
    }
    changes = [
        ConfigResource(
            "topic",
            topic,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wrong.items()
            ],
        )
        for topic, wrong in settings.items()
    ]
    admin = client.admin(rig.settings.kafka)
    for change in admin.incremental_alter_configs(changes).values():
        change.result(timeout=30)

    done = await asyncio.to_thread(billing, rig, "topics", BILLING_PARTITIONS="2")

    assert done.returncode == ExitCode.NO
    for topic, wrong in settings.items():
        for name, value in wrong.items():
            assert f"{topic}: {name} is {value}, wanted " in done.stdout
    warned = await asyncio.to_thread(billing, rig, "topics", "--warn", BILLING_PARTITIONS="2")
    assert (warned.returncode, warned.stdout) == (ExitCode.DONE, done.stdout), warned.stderr
    assert "4 settings do not fit" in warned.stderr
    other = await asyncio.to_thread(billing, rig, "topics", "--warn", BILLING_PARTITIONS="3")
    assert (other.returncode, "has 2 partitions" in other.stderr) == (ExitCode.NO, True)
    doctor = await asyncio.to_thread(
        billing, rig, "doctor", "--json", "--only", "kafka", BILLING_PARTITIONS="2", BILLING_REPLICATION_FACTOR="1"
    )
    found = [json.loads(line) for line in doctor.stdout.splitlines()]
    lines = {line for line in done.stdout.splitlines() if ", wanted " in line}
    assert len(lines) == 4
    assert lines == {one["text"] for one in found if one["status"] == "failed"}
    send(rig, range(2))
    await applied_and_stopped(rig, 2)
    assert log_of(rig).count('"action":"topic.setting"') == 4
