"""A worker killed between any two steps loses nothing, applies nothing twice, and keeps each customer's order."""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka import KafkaException, TopicPartition
from pydantic import SecretStr

from eventlog import client
from eventlog.topics import ensure_topics
from schemas.settings import Settings
from tests.kits import clikit
from tests.kits.notes import note_body, note_headers
from tests.waiting import wait_until

pytestmark = pytest.mark.chaos

USERS, EVENTS, PARTITIONS, SEED = 60, 3000, 6, 20261123
CRASHES = (("after-commit", 2), ("before-commit", 2), ("after-mark", 2), ("in-rule", 130), ("after-commit", 1))


async def test_killed_between_any_two_steps_everything_is_applied_once_and_in_order(
    kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    env = _env(kafka_bootstrap, migrated_url, topic_prefix, tmp_path)
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=SecretStr(migrated_url),
        config_path=tmp_path / "config.toml",
        topic_prefix=topic_prefix,
        partitions=PARTITIONS,
    )
    ensure_topics(settings)
    expected, poison = _produce(settings, random.Random(SEED))

    deaths = []
    for point, nth in CRASHES:
        with _worker(env, point, nth) as process:
            deaths.append(process.wait(timeout=90))
    with _worker(env, "never", 1) as process:
        wait_until(lambda: _lag(settings) == 0, "the group to have read all", within_s=90, process=process)

    assert deaths == [-signal.SIGKILL] * len(CRASHES)
    connection = await asyncpg.connect(migrated_url)
    trails = {row["user_id"]: row["email"].split(",") for row in await connection.fetch("select * from billing.users")}
    counted = await connection.fetch("select outcome, count(*) as events from billing.events group by outcome")
    outcomes = {row["outcome"]: row["events"] for row in counted}
    mails = await connection.fetchval("select count(*) from billing.emails")
    letters = await connection.fetchval("select count(*) from billing.dead_letters")
    await connection.close()
    assert trails == expected
    assert outcomes == {"applied": sum(map(len, expected.values())), "dead": poison}
    assert (mails, letters) == (outcomes["applied"], poison)


def _produce(settings: Settings, chance: random.Random) -> tuple[dict[str, list[str]], int]:
    """Produce 3,000 events of 60 users: a tenth duplicates, a hundredth poison. Returns each user's expected trail."""
    producer = client.producer(settings.kafka, client_id="test")
    expected: dict[str, list[str]] = defaultdict(list)
    sent: list[tuple[str, str]] = []
    poison = 0
    for n in range(EVENTS):
        if sent and chance.random() < 0.1:
            user, event_id = chance.choice(sent)
            body = note_body(event_id, user)
        else:
            user, event_id = f"u{chance.randrange(USERS)}", f"evt_{n:05}"
            if chance.random() < 0.01:
                body, poison = note_body(event_id, user, trouble="rule"), poison + 1
            else:
                body = note_body(event_id, user)
                sent.append((user, event_id))
                expected[user].append(event_id)
        headers: dict[str, str | bytes | None] = dict(note_headers(event_id).encode())
        producer.produce(settings.events_topic, key=f"cus_{user}", value=body, headers=headers)
    assert producer.flush(30) == 0
    return dict(expected), poison


def _env(bootstrap: str, url: str, prefix: str, folder: Path) -> dict[str, str]:
    (folder / "config.toml").write_text("")
    return {
        **os.environ,
        "BILLING_KAFKA_BOOTSTRAP": bootstrap,
        "BILLING_DATABASE_URL": url,
        "BILLING_CONFIG": str(folder / "config.toml"),
        "BILLING_TOPIC_PREFIX": prefix,
        "BILLING_STATE_DIR": str(folder),
        "BILLING_SESSION_TIMEOUT_S": "6",
        "BILLING_BATCH_SIZE": "100",
        "BILLING_LOG_LEVEL": "warning",
    }


@contextmanager
def _worker(env: dict[str, str], point: str, nth: int) -> Iterator[clikit.ForkedProcess]:
    log = Path(env["BILLING_STATE_DIR"]) / "worker.log"
    with clikit.running([point, str(nth)], env, log, module="tests.chaos.notes_worker") as process:
        yield process


def _lag(settings: Settings) -> int | None:
    """Records of the events topic that the group has not committed; None while its coordinator loads."""
    group = f"{settings.topic_prefix}.worker"
    wanted = [TopicPartition(settings.events_topic, partition) for partition in range(PARTITIONS)]
    consumer = client.consumer(settings.kafka, group=group)
    try:
        committed = {place.partition: max(place.offset, 0) for place in consumer.committed(wanted, timeout=30)}
        ends = [consumer.get_watermark_offsets(place, timeout=30)[1] for place in wanted]
    except KafkaException:
        return None
    finally:
        consumer.close()
    return sum(end - committed[partition] for partition, end in enumerate(ends))
