"""Records of another producer on the events topic: each is settled or dead-lettered, and no process stops at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource

from eventlog import client
from tests.kits import oddheaders
from tests.kits.notes import note_body
from tests.kits.replaykit import ReplayKit
from tests.kits.workerkit import applied_and_stopped, billing, open_rig

pytestmark = pytest.mark.e2e

_FAR = 253_402_300_800_000
"""A timestamp in milliseconds: the year 10000, which no `datetime` can represent."""
_ANY_TIME = str(2**63 - 1)

_SETTLED: tuple[dict[str, Any], ...] = (
    {"key": None, "value": note_body("evt_without_key")},
    {"key": b"\xff\xfe" * 2_000, "value": note_body("evt_odd_key")},
    {"value": note_body("evt_null_headers"), "headers": [("event_id", None), ("type", None)]},
    {"value": note_body("evt_odd_headers"), "headers": [("type", b"\xff"), ("event_id", b"evt_x")]},
    {"value": note_body("evt_repeated_header"), "headers": [("type", b"a"), ("type", b"note.written")]},
    {"value": note_body("evt_large_header"), "headers": [("x", b"h" * 900_000)]},
    {"value": note_body("evt_many_headers"), "headers": [(f"h{n}", b"v" * 50) for n in range(5_000)]},
    {"value": note_body("evt_late"), "timestamp": _FAR},
    {"value": note_body("evt_latest"), "timestamp": 2**62},
    {"value": note_body("evt_early"), "timestamp": 1},
    {"value": note_body("evt_odd_time"), "headers": [("received_at", b"9999-12-31T23:59:59-23:00")]},
)
_DEAD: tuple[dict[str, Any], ...] = (
    {"key": None, "value": None},
    {"key": b"cus_u1", "value": None},
    {"key": b"", "value": b""},
    {"value": b"\x00\x00\x00\x00\x07Avro"},
    {"value": b"null"},
    {"value": b"[" * 5_000},
    {"value": None, "headers": [("x", b"h" * 900_000)]},
    {"value": b"{", "timestamp": _FAR},
)
_NAMES = (b"\xff\xfe", b"a\0b", b"caf\xe9", b"\xed\xa0\x80", b"")
"""Names of a header. They are no UTF-8, or no name for librdkafka."""


async def test_foreign_records_are_settled_and_ordinary_ones_applied(
    kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with open_rig(kafka_bootstrap, migrated_url, topic_prefix, tmp_path) as rig:
        _allow_any_time(rig)
        for record in (*_DEAD, *_SETTLED):
            await _produce(rig, record)
        for at, name in enumerate(_NAMES):
            for value in (note_body(f"evt_named_{at}"), b"{"):
                await oddheaders.produce(kafka_bootstrap, rig.settings.events_topic, b"cus_u2", value, name)
        for n in range(10):
            rig.send(f"evt_good_{n}", f"u{n}")

        await applied_and_stopped(rig, 10 + len(_SETTLED) + len(_NAMES))

        (letters,) = await rig.rows("SELECT count(*) AS n FROM billing.dead_letters WHERE status = 'open'")
        assert letters["n"] == len(_DEAD) + len(_NAMES)
        for command in (
            ["dead", "ls"],
            ["event", "evt_late"],
            ["event", "evt_large_header"],
            ["replay", "evt_named_0", "evt_named_1"],
        ):
            shown = billing(rig, *command)
            assert shown.returncode == 0, shown.stderr
        replayed = billing(rig, "dead", "replay", "--since", "24h")
        without_value = sum(record["value"] is None for record in _DEAD)
        assert f"{letters['n'] - without_value} replayed" in replayed.stdout, replayed.stderr


def _allow_any_time(rig: ReplayKit) -> None:
    """By default brokers refuse a timestamp of tomorrow, but that is a setting of theirs."""
    names = ("message.timestamp.after.max.ms", "message.timestamp.before.max.ms")
    entries = [ConfigEntry(name, _ANY_TIME, incremental_operation=AlterConfigOpType.SET) for name in names]
    resource = ConfigResource(ConfigResource.Type.TOPIC, rig.settings.events_topic, incremental_configs=entries)
    admin = client.admin(rig.settings.kafka)
    for change in admin.incremental_alter_configs([resource]).values():
        change.result(timeout=30)


async def _produce(rig: ReplayKit, record: dict[str, Any]) -> None:
    """Append alone: one record that the broker refuses would take its whole batch with it."""
    refused: list[object] = []
    rig.producer.produce(
        rig.settings.events_topic,
        **{"key": b"cus_u2", **record},
        on_delivery=lambda error, _: refused.append(error) if error else None,
    )
    assert rig.producer.flush(30) == 0
    assert not refused
