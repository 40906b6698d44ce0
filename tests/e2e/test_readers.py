"""Other readers of the stream (behaviours.md E2): `billing tap`, the analytics consumer, and the example consumer.

All read one log that contains the demo's story as the gateway would write it, each third record twice.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

import asyncpg
import orjson
import pyarrow.parquet as pq
import pytest
from confluent_kafka import TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from analytics import queries
from analytics.recount import recount as recount_figures
from eventlog import client
from eventlog.lag import lag_of
from eventlog.topics import ensure_topics
from local.demo.story import Step, story
from local.stack.ports import free_port
from schemas.ordering import ordering_key
from schemas.record import RecordHeaders, Source
from schemas.settings import Settings, load_config
from sinks.postgres.migration import migrate
from sinks.postgres.pool import reading
from tests.kits.systemkit import CONFIG
from tests.paths import ROOT

pytestmark = pytest.mark.e2e


BY_HAND = ("Ada", "Ben", "Cleo", "Eve")
"""Customers of the story with figures that are computed by hand here."""


@dataclass(frozen=True)
class Log:
    """A topic with the story on it, and the settings of the commands."""

    env: dict[str, str]
    settings: Settings
    steps: list[Step]
    records: int

    def billing(self, *words: str, code: int = 0) -> str:
        """Run one command until it ends; `code` is the expected exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "ops.cli", *words],
            env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def tap(self, *words: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.billing("tap", "--no-follow", *words).splitlines()]


@pytest.fixture(scope="module")
def log(kafka_bootstrap: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    folder, name = tmp_path_factory.mktemp("readers"), f"t{uuid.uuid4().hex[:10]}"
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
    asyncio.run(_execute(postgres_url, f"CREATE DATABASE {name}"))
    asyncio.run(migrate(settings.database_url))
    ensure_topics(settings)
    answered = (step for step in story(int(time.time())) if isinstance(step, Step))
    steps = [step for step in answered if step.answer == 200 and step.who in BY_HAND]
    steps = [again for n, step in enumerate(steps) for again in [step] * (2 if n % 3 == 0 else 1)]
    produce(settings, steps)
    yield Log(env, settings, steps, len(steps))
    asyncio.run(_execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


def produce(settings: Settings, steps: list[Step]) -> None:
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


# -- the tap ------------------------------------------------------------------------------------------------------


def test_the_tap_shows_each_record_as_it_is(log: Log) -> None:
    lines = log.tap("--from-start")
    assert len(lines) == log.records
    by_id = {step.event["id"]: step.event for step in log.steps}
    assert all(line["event"] == by_id[line["headers"]["event_id"]] for line in lines)
    assert all(line["key"] == ordering_key(line["event"]) for line in lines)


def test_it_begins_now_or_at_a_time(log: Log) -> None:
    assert len(log.tap()) == log.records, "what does not follow begins at the start"
    assert len(log.tap("--since", "1h")) == log.records
    assert log.tap("--since", "2999-01-01T00:00") == []


def test_it_filters(log: Log) -> None:
    ada = next(step.customer_id for step in log.steps if step.who == "Ada")
    invoices = log.tap("--from-start", "--type", "invoice.*")
    assert len(invoices) == sum(step.event["type"].startswith("invoice.") for step in log.steps)
    of_ada = log.tap("--from-start", "--customer", ada, "--source", "stripe", "--account", "")
    assert len(of_ada) == sum(step.who == "Ada" for step in log.steps)
    assert log.tap("--from-start", "--source", "timer", "--source", "replay") == []
    assert log.tap("--from-start", "--account", "acct_1") == []


def test_it_leaves_no_group_behind_unless_one_is_named(log: Log) -> None:
    group = f"{log.settings.topic_prefix}.taptest"
    first = log.tap("--from-start", "--group", group, "--limit", "5")
    rest = log.tap("--from-start", "--group", group)
    places = [(line["partition"], line["offset"]) for line in (*first, *rest)]
    assert (len(first), len(places)) == (5, log.records)
    assert len(set(places)) == log.records
    assert committed(log, f"{log.settings.events_topic}.tail") == {-1001}


def test_it_writes_parquet(log: Log, tmp_path: Path) -> None:
    assert log.tap("--parquet", str(tmp_path / "tapped.parquet")) == []
    rows = pq.read_table(tmp_path / "tapped.parquet").to_pylist()
    assert sorted(row["value"] for row in rows) == sorted(step.body for step in log.steps)
    assert {row["livemode"] for row in rows} == {False}
    assert list(tmp_path.iterdir()) == [tmp_path / "tapped.parquet"]


def test_it_reports_what_is_missing(log: Log, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('none here')\n")
    without = Log(log.env | {"PYTHONPATH": str(tmp_path)}, log.settings, log.steps, log.records)
    assert "pip install 'billing-stream[parquet]'" in without.billing("tap", "--parquet", "x.parquet", code=2)
    assert "is not a time" in log.billing("tap", "--since", "yesterday", code=2)
    missing = Log(log.env | {"BILLING_TOPIC_PREFIX": "missing"}, log.settings, log.steps, log.records)
    assert "missing.events" in missing.billing("tap", code=3)


def test_it_follows_until_it_is_stopped(log: Log) -> None:
    with child(log, "-m", "ops.cli", "tap", "--since", "1h") as process:
        assert process.stdout is not None
        for _ in range(log.records):
            orjson.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"", b"")
        assert process.returncode == 0


def test_it_ends_silently_when_its_output_is_closed(log: Log) -> None:
    """As with `billing tap | head`."""
    with child(log, "-m", "ops.cli", "tap", "--since", "1h") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == b""


# -- the figures --------------------------------------------------------------------------------------------------


def test_the_figures_are_right_though_the_consumer_is_killed_midway(log: Log) -> None:
    """Ada's trial becomes 19 a month, then 49. Ben's 49 were at risk and recovered. Cleo's 19 started and ended."""
    with child(log, "-m", "ops.cli", "analytics") as process:
        wait(lambda: bool(figures(log)["mrr"]), "the first figures", process)
        process.kill()
        process.wait(timeout=10)
    port = free_port()
    again = Log(log.env | {"BILLING_OPS_PORT": str(port)}, log.settings, log.steps, log.records)
    with child(again, "-m", "ops.cli", "analytics") as process:
        # The killed member's session lasts 6 s. Until then no other member can join.
        wait(lambda: is_ready(port), "the second process to be ready", process)
        assert sample(port, "billing_consumer_rebalances_total") >= 1, "ready before it joined its group"
        group = f"{log.settings.topic_prefix}.analytics"
        wait(lambda: is_read(log, group), "the group to have read all", process)
        process.terminate()
        assert process.wait(timeout=20) == 0
    check_by_hand(log)
    assert orjson.loads(log.billing("mrr", "--json", "--mode", "test"))["mrr"] == figures(log)["mrr"]
    assert "No figures yet" in log.billing("mrr", "--mode", "live")
    before = asyncio.run(stored(log))

    assert "0 rows of figures changed" in log.billing("analytics", "recount")
    asyncio.run(
        _execute(log.env["BILLING_DATABASE_URL"], "TRUNCATE analytics.movements, analytics.risks, analytics.facts")
    )
    asyncio.run(_execute(log.env["BILLING_DATABASE_URL"], "UPDATE analytics.payments SET amount = 1"))
    assert recount(log) > 0
    assert asyncio.run(stored(log)) == before
    recount(log, forget=True)
    assert asyncio.run(stored(log)) == before
    check_by_hand(log)


def check_by_hand(log: Log) -> None:
    found = figures(log)
    assert found["mrr"] == [
        {
            "livemode": False, "currency": "eur", "mrr": 9800,
            "new": 1900 + 4900 + 1900, "expansion": 3000, "contraction": 0, "churn": -1900, "reactivation": 0,
        }
    ]  # fmt: skip
    by_plan = {row["plan"]: (row["mrr"], row["new"], row["churn"]) for row in figures(log, "plan")["mrr"]}
    assert by_plan == {"starter": (0, 3800, -1900), "pro": (9800, 4900, 0)}
    assert figures(log, "day")["mrr"][-1]["mrr"] == 9800
    assert found["risk"] == [{"livemode": False, "currency": "eur", "at_risk": 0, "recovered": 4900, "lost": 0}]
    assert found["recovery"] == [
        {
            "livemode": False, "currency": "eur", "failed": 1, "recovered": 1, "lost": 0, "open": 0, "rate": "1.0000",
            "recovered_amount": 4900, "lost_amount": 0, "median_seconds": 4940,
        }
    ]  # fmt: skip
    assert [(row["step"], row["recovered"]) for row in found["recovery_by_step"]] == [("payment-urgent", 1)]
    assert found["payments"] == [
        {
            "livemode": False, "currency": "eur", "payments": 4, "amount": 1900 + 4900 + 4900 + 1900, "customers": 3,
            "unpaid": 0, "unpaid_amount": 0, "refunded": 0,
        }
    ]  # fmt: skip


# -- the example consumer -----------------------------------------------------------------------------------------


def test_the_example_prints_each_paid_invoice_once(log: Log) -> None:
    paid = {step.event["id"] for step in log.steps if step.event["type"] == "invoice.paid"}
    with child(log, "docs/examples/consumer.py") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode().split() for _ in paid]
        wait(lambda: is_read(log, "paid-invoices"), "the example to have read all", process)
        process.terminate()
        rest, _ = process.communicate(timeout=20)
    assert {line[0] for line in lines} == paid
    assert {tuple(line[2:]) for line in lines} == {("1900", "eur"), ("4900", "eur")}
    assert (process.returncode, rest) == (0, b"")


# -- the metrics --------------------------------------------------------------------------------------------------


def test_the_documented_metrics_are_those_of_the_running_processes(log: Log) -> None:
    """docs/metrics.md, section by section. The section on consumers applies to worker and analytics."""
    documented = documented_metrics((ROOT / "docs" / "metrics.md").read_text())
    consumer = documented.pop("worker and analytics: their consumer")
    documented["worker"] |= consumer
    documented["analytics"] |= consumer
    shown = {}
    with ExitStack() as running:
        processes = {}
        ports = {name: free_port() for name in documented}
        for name in documented:
            own = log.env | {"BILLING_OPS_PORT": str(ports[name]), "BILLING_GATEWAY_PORT": str(free_port())}
            own |= {"BILLING_STATE_DIR": f"{log.env['BILLING_STATE_DIR']}/{name}", "BILLING_LOG_LEVEL": "error"}
            processes[name] = running.enter_context(child(Log(own, log.settings, [], 0), "-m", "ops.cli", name))
        for name, process in processes.items():
            wait(partial(are_scraped, ports[name]), f"the metrics of {name}", process)
            shown[name] = scraped(ports[name])
    assert shown == documented


def documented_metrics(page: str) -> dict[str, dict[str, str]]:
    """Metric types by metric name, by section."""
    found: dict[str, dict[str, str]] = {}
    for section in page.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        if rows := re.findall(r"^\| `(billing_\w+)` \| (\w+) \|", body, re.MULTILINE):
            assert len(rows) == len(dict(rows))
            found[title] = dict(rows)
    return found


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # no process answers yet, or the answer is 503
        return False


def sample(port: int, name: str) -> float:
    """The value of a metric without labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    (value,) = (s.value for family in text_string_to_metric_families(text) for s in family.samples if s.name == name)
    return value


def are_scraped(port: int) -> bool:
    return bool(scraped(port))


def scraped(port: int) -> dict[str, str]:
    """Metric types by name; empty while no process answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            text = response.read().decode()
    except OSError:
        return {}
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
        if family.name.startswith("billing_") and not family.name.endswith("_created")
    }


# -- helpers ------------------------------------------------------------------------------------------------------


@contextmanager
def child(log: Log, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *words], env=log.env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)
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
        return {place.offset for place in consumer.committed(places, timeout=10)}
    finally:
        consumer.close()


def wait(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes], within_s: float = 40) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode} while waiting for {what}"
        assert time.monotonic() < deadline, f"waited {within_s} s for {what}"
        time.sleep(0.05)


async def stored(log: Log) -> dict[str, list[Any]]:
    connection = await asyncpg.connect(log.env["BILLING_DATABASE_URL"], timeout=10)
    try:
        return {
            table: sorted(map(tuple, await connection.fetch(f"SELECT * FROM analytics.{table}")), key=repr)
            for table in ("facts", "movements", "risks", "recoveries", "payments")
        }
    finally:
        await connection.close(timeout=5)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement, timeout=30)
    finally:
        await connection.close(timeout=5)
