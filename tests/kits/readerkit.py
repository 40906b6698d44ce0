"""A log with the demo's story on it, and the processes and queries of its readers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

import asyncpg
import orjson
from confluent_kafka import TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from analytics import queries
from analytics.recount import recount as recount_figures
from eventlog import client
from eventlog.lag import lag_of
from eventlog.topics import ensure_topics
from local.demo.people import DemoStep
from local.demo.story import story
from schemas.ordering import ordering_key
from schemas.record import RecordHeaders, Source
from schemas.settings import Settings, load_config
from sinks.postgres.pool import reading
from tests.databases import create_tables
from tests.kits import clikit
from tests.kits.systemkit import CONFIG
from tests.paths import ROOT

BY_HAND = ("Ada", "Ben", "Cleo", "Eve")
"""Customers of the story with figures that are computed by hand here."""


@dataclass(frozen=True)
class Log:
    """A topic with the story on it, and the settings of the commands."""

    env: dict[str, str]
    settings: Settings
    steps: list[DemoStep]
    records: int

    def billing(self, *words: str, code: int = 0) -> str:
        """Run one command until it ends; `code` is the expected exit code."""
        done = clikit.billing(words, self.env)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def tap(self, *words: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.billing("tap", "--no-follow", *words).splitlines()]


@contextmanager
def open_log(kafka_bootstrap: str, postgres_url: str, folder: Path) -> Iterator[Log]:
    name = f"t{uuid.uuid4().hex[:10]}"
    (folder / "config.toml").write_text(CONFIG)
    url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    settings = Settings(
        kafka_bootstrap=kafka_bootstrap,
        database_url=SecretStr(url),
        config_path=folder / "config.toml",
        topic_prefix=name,
        partitions=4,
    )
    env = {
        **os.environ,
        "BILLING_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "BILLING_DATABASE_URL": url,
        "BILLING_CONFIG": str(folder / "config.toml"),
        "BILLING_TOPIC_PREFIX": name,
        "BILLING_STATE_DIR": str(folder),
        "BILLING_SESSION_TIMEOUT_S": "6",
        "BILLING_BATCH_SIZE": "7",
    }
    asyncio.run(create_tables(url))
    ensure_topics(settings)
    answered = (step for step in story(int(time.time())) if isinstance(step, DemoStep))
    steps = [step for step in answered if step.answer == 200 and step.who in BY_HAND]
    steps = [again for n, step in enumerate(steps) for again in [step] * (2 if n % 3 == 0 else 1)]
    produce(settings, steps)
    yield Log(env, settings, steps, len(steps))
    asyncio.run(execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


def produce(settings: Settings, steps: list[DemoStep]) -> None:
    producer = client.producer(settings.kafka, client_id="test")
    for step in steps:
        event = step.event
        headers = RecordHeaders(
            event["id"],
            event["type"],
            Source.STRIPE,
            "",
            False,
            event["api_version"],
            "default",
            datetime(2026, 1, 1, tzinfo=UTC),
        )
        pairs: dict[str, str | bytes | None] = dict(headers.encode())
        producer.produce(settings.events_topic, key=ordering_key(event), value=step.body, headers=pairs)
    assert producer.flush(30) == 0


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # no process answers yet, or the answer is 503
        return False


def sample(port: int, name: str) -> float:
    """The value of a metric without labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        text = response.read().decode()
    (value,) = (s.value for family in text_string_to_metric_families(text) for s in family.samples if s.name == name)
    return value


def are_scraped(port: int) -> bool:
    return bool(scraped(port))


def scraped(port: int) -> dict[str, str]:
    """Metric types by name; empty while no process answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            text = response.read().decode()
    except OSError:
        return {}
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
        if family.name.startswith("billing_") and not family.name.endswith("_created")
    }


@contextmanager
def child(log: Log, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *words], env=log.env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def figures(log: Log, by: str = "currency") -> dict[str, list[dict[str, Any]]]:
    """The same query as `billing mrr --json`."""

    async def ask() -> dict[str, list[dict[str, Any]]]:
        async with reading(log.settings.database_url) as connection:
            return await queries.figures(connection, queries.Scope(), by)

    return asyncio.run(ask())


def recount(log: Log, *, forget: bool = False) -> int:
    """Does what `billing analytics recount` does. Returns the number of rows changed."""
    counted, _ = asyncio.run(recount_figures(log.settings, load_config(log.settings.config_path), forget=forget))
    return counted.rows


def is_read(log: Log, group: str) -> bool:
    lag = lag_of(log.settings.kafka, group, log.settings.events_topic)
    return lag is not None and not any(lag.values())


def committed(log: Log, group: str) -> set[int]:
    consumer = client.consumer(log.settings.kafka, group=group)
    try:
        places = [TopicPartition(log.settings.events_topic, partition) for partition in range(4)]
        return {place.offset for place in consumer.committed(places, timeout=30)}
    finally:
        consumer.close()


async def stored(log: Log) -> dict[str, list[Any]]:
    connection = await asyncpg.connect(log.env["BILLING_DATABASE_URL"], timeout=30)
    try:
        return {
            table: sorted(map(tuple, await connection.fetch(f"SELECT * FROM analytics.{table}")), key=repr)
            for table in ("facts", "movements", "risks", "recoveries", "payments")
        }
    finally:
        await connection.close(timeout=30)


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=30)
    try:
        await connection.execute(statement, timeout=30)
    finally:
        await connection.close(timeout=30)
