"""Other readers of the stream (behaviours.md E2): `billing tap`, the analytics consumer, and the example consumer.

All read one log that contains the demo's story as the gateway would write it, each third record twice.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from local.stack.ports import free_port
from schemas.ordering import ordering_key
from tests.kits.readerkit import (
    Log,
    are_scraped,
    child,
    committed,
    execute,
    figures,
    is_read,
    is_ready,
    open_log,
    recount,
    sample,
    scraped,
    stored,
)
from tests.kits.storekit import ask
from tests.paths import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def log(kafka_bootstrap: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    with open_log(kafka_bootstrap, postgres_url, tmp_path_factory.mktemp("readers")) as opened:
        yield opened


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
    command = [sys.executable, "-m", "ops.cli", "tap", "--parquet", str(tmp_path / "x.parquet")]
    without = subprocess.run(
        command, env=log.env | {"PYTHONPATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert without.returncode == 2
    assert "pip install 'billing-stream[parquet]'" in without.stderr
    assert "is not a time" in log.billing("tap", "--since", "yesterday", code=2)
    missing = Log(log.env | {"BILLING_TOPIC_PREFIX": "missing"}, log.settings, log.steps, log.records)
    assert "missing.events" in missing.billing("tap", code=3)


def test_it_follows_until_it_is_stopped(log: Log) -> None:
    with child(log, "-m", "ops.cli", "tap", "--since", "1h") as process:
        assert process.stdout is not None
        for _ in range(log.records):
            orjson.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 0


def test_it_ends_silently_when_its_output_is_closed(log: Log) -> None:
    """As with `billing tap | head`."""
    with child(log, "-m", "ops.cli", "tap", "--since", "1h") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""


# -- the figures --------------------------------------------------------------------------------------------------


def test_the_figures_are_right_though_the_consumer_is_killed_midway(log: Log) -> None:
    """Ada's trial becomes 19 a month, then 49. Ben's 49 were at risk and recovered. Cleo's 19 started and ended."""
    with child(log, "-m", "ops.cli", "analytics") as process:
        wait_until(lambda: bool(figures(log)["mrr"]), "the first figures", process=process)
        process.kill()
        process.wait(timeout=30)
    port = free_port()
    again = Log(log.env | {"BILLING_OPS_PORT": str(port)}, log.settings, log.steps, log.records)
    with child(again, "-m", "ops.cli", "analytics") as process:
        # The killed member's session lasts 6 s. Until then no other member can join.
        wait_until(lambda: is_ready(port), "the second process to be ready", process=process)
        assert sample(port, "billing_consumer_rebalances_total") >= 1, "ready before it joined its group"
        group = f"{log.settings.topic_prefix}.analytics"
        wait_until(lambda: is_read(log, group), "the group to have read all", process=process)
        process.terminate()
        assert process.wait(timeout=30) == 0
    check_by_hand(log)
    assert orjson.loads(log.billing("mrr", "--json", "--mode", "test"))["mrr"] == figures(log)["mrr"]
    assert "No figures yet" in log.billing("mrr", "--mode", "live")
    before = asyncio.run(stored(log))

    assert "0 rows of figures changed" in log.billing("analytics", "recount")
    asyncio.run(
        execute(log.env["BILLING_DATABASE_URL"], "TRUNCATE analytics.movements, analytics.risks, analytics.facts")
    )
    asyncio.run(execute(log.env["BILLING_DATABASE_URL"], "UPDATE analytics.payments SET amount = 1"))
    assert recount(log) > 0
    assert asyncio.run(stored(log)) == before
    assert " 0 owners" not in log.billing("analytics", "recount", "--forget")
    recorded = "SELECT action || ' ' || outcome FROM billing.audit_log"
    assert asyncio.run(ask(SecretStr(log.env["BILLING_DATABASE_URL"]), recorded)) == "analytics.forget done"
    assert asyncio.run(stored(log)) == before
    check_by_hand(log)


def check_by_hand(log: Log) -> None:
    found = figures(log)
    assert found["mrr"] == [
        {
            "livemode": False, "currency": "eur", "mrr": 9800, "list_mrr": 9800,
            "new": 1900 + 4900 + 1900, "expansion": 3000, "contraction": 0, "churn": -1900, "reactivation": 0,
            "pause": 0, "resume": 0, "paused_churn": 0,
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
        wait_until(lambda: is_read(log, "paid-invoices"), "the example to have read all", process=process)
        process.terminate()
        rest, _ = process.communicate(timeout=30)
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
            own["BILLING_CONSOLE_PORT"] = str(free_port())
            own |= {"BILLING_STATE_DIR": f"{log.env['BILLING_STATE_DIR']}/{name}", "BILLING_LOG_LEVEL": "error"}
            processes[name] = running.enter_context(child(Log(own, log.settings, [], 0), "-m", "ops.cli", name))
        for name, process in processes.items():
            wait_until(partial(are_scraped, ports[name]), f"the metrics of {name}", process=process)
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
