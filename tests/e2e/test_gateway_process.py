"""`billing gateway` as a process: under load, a dead broker, SIGTERM and kill -9 never lose an event answered 200."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.cimpl import NewTopic

from eventlog import client
from local.stack.kafka import EmbeddedKafka
from local.stack.ports import free_port
from schemas.kafka_access import KafkaAccess
from schemas.settings import Settings
from tests.kits import clikit
from tests.kits.gatewaykit import (
    ANSWERED_WITHIN_S,
    FORGED,
    SECRET,
    PostingLoad,
    assert_all_stored_in_order,
    create_topics,
    event,
    get,
    post,
    read_topic,
    serving,
    signed,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

MIB = 1024 * 1024


class GatewayProcess:
    """`billing gateway` on a free port, with its log in a file."""

    def __init__(self, folder: Path, settings: Settings, config_text: str = "", **extra: str) -> None:
        config = folder / "billing.toml"
        config.write_text(config_text or f'[endpoints.default]\nsecrets = ["{SECRET.decode()}"]\n')
        self.log = folder / "gateway.log"
        self.ops_port = free_port()
        env = environment(settings, config) | {"BILLING_OPS_PORT": str(self.ops_port)} | extra
        self.popen = clikit.start(["gateway"], env, folder / "gateway.out", self.log)
        processes = int(extra.get("BILLING_GATEWAY_PROCESSES", "1"))
        try:
            wait_until(self.log.exists, within_s=60, what="the log")
            wait_until(lambda: len(self.logged("gateway.listening")) == processes, within_s=60, what="listening")
        except AssertionError:
            self.popen.kill()
            raise AssertionError(self.log.read_text()) from None
        self.port = int(self.logged("gateway.listening")[0]["port"])

    def logged(self, action: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["action"] == action]

    @property
    def rss(self) -> int:
        return int(psutil.Process(self.popen.pid).memory_info().rss)

    def wait(self) -> int:
        return self.popen.wait(40)


def environment(settings: Settings, config: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")} | {
        "BILLING_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "BILLING_TOPIC_PREFIX": settings.topic_prefix,
        "BILLING_DATABASE_URL": "postgresql://unused",
        "BILLING_CONFIG": str(config),
        "BILLING_GATEWAY_PORT": "0",
        "BILLING_GATEWAY_DRAIN_S": "0",
    }


@contextlib.contextmanager
def running(folder: Path, settings: Settings, *, config: str = "", **extra: str) -> Iterator[GatewayProcess]:
    process = GatewayProcess(folder, settings, config, **extra)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait(30)


@pytest.fixture
def topics(kafka_bootstrap: str, topic_prefix: str) -> Settings:
    return create_topics(kafka_bootstrap, topic_prefix)


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker that this test may kill."""
    kafka = EmbeddedKafka(tmp_path / "kafka")
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.stop()


def answered(load: PostingLoad, count: int, within_s: float = 40) -> None:
    """Wait until `count` more requests are answered 200."""
    goal = load.count(200) + count
    wait_until(lambda: load.count(200) >= goal, within_s=within_s, what=f"{count} more answered 200")


def test_T31_a_webhook_secret_is_rotated_without_a_restart_and_without_a_400(topics: Settings, tmp_path: Path) -> None:
    """SIGHUP takes over a new secret at once; a changed file is noticed without a signal; junk changes nothing."""
    new = b"whsec_ofTheNextMonth7Kq2Zp9Vt4Rw8Xn"
    file = tmp_path / "secrets"
    file.write_bytes(SECRET)
    with running(tmp_path, topics, config="[endpoints.default]\n", BILLING_WEBHOOK_SECRET_FILE=str(file)) as gateway:

        def status(secret: bytes) -> int:
            body = event()
            return post(gateway.port, body, signed(body, secret)).status

        assert (status(SECRET), status(new)) == (200, 400)
        with PostingLoad(gateway.port, connections=2) as load:
            file.write_bytes(new + b"\n" + SECRET + b"\n")
            gateway.popen.send_signal(signal.SIGHUP)
            wait_until(lambda: status(new) == 200, what="the new secret")
            answered(load, 20)
            load.stop()
        assert load.count(200) > 20
        assert load.count(400) == 0
        file.write_bytes(b"whsec_short")
        wait_until(lambda: gateway.logged("gateway.endpoints_kept"), what="a refused file")
        assert (status(SECRET), status(new)) == (200, 200)
        file.write_bytes(new)
        wait_until(lambda: status(SECRET) == 400, what="the end of the old secret")
        assert status(new) == 200
        assert SECRET.decode() not in gateway.log.read_text()


def test_a_dead_broker_costs_503_and_nothing_else(own_kafka: EmbeddedKafka, tmp_path: Path) -> None:
    """kill -9 of the broker under load (A3): each event answered 200 is in the topic and in order, each request during
    the outage is answered 503 in time, memory stays flat, and the gateway recovers without a restart."""
    settings = create_topics(own_kafka.bootstrap, "outage")
    connections = 32
    with running(tmp_path, settings) as gateway, PostingLoad(gateway.port, connections) as load:
        answered(load, 1000)
        rss_before = gateway.rss
        own_kafka.kill()
        wait_until(lambda: load.count(503) > connections, what="a second 503 of a connection")
        ready = get(gateway.ops_port, "/readyz")
        assert ready.status == 503
        assert "unreachable" in json.loads(ready.body)["reason"]
        assert get(gateway.port, "/livez").status == 200
        rss_in_outage = gateway.rss
        own_kafka.start()
        answered(load, 1000)
        wait_until(lambda: get(gateway.ops_port, "/readyz").status == 200, within_s=30, what="ready again")
        load.stop()
        assert gateway.rss - rss_before < 48 * MIB
        assert rss_in_outage - rss_before < 48 * MIB
    assert {shot.status for shot in load.shots} == {200, 503}
    assert max(shot.seconds for shot in load.shots) < ANSWERED_WITHIN_S
    assert_all_stored_in_order(load, read_topic(own_kafka.bootstrap, settings.events_topic))


def test_a_fatal_producer_error_is_survived(kafka_bootstrap: str, topic_prefix: str) -> None:
    """An idempotent producer is unusable after a fatal error. It is replaced, and its records are answered 503.

    With gapless delivery configured, librdkafka treats a batch that the broker refuses as fatal. This topic refuses
    large records, so the error is a real one.
    """
    topic = f"{topic_prefix}.small"
    admin = client.admin(KafkaAccess(kafka_bootstrap))
    admin.create_topics([NewTopic(topic, 4, 1, config={"max.message.bytes": "100000"})])[topic].result(30)
    own: dict[str, str | int | float | bool] = {"enable.gapless.guarantee": True, "compression.type": "none"}
    own["batch.size"] = 50_000  # otherwise small records could share a batch with the large one and fail with it
    with serving(kafka_bootstrap, topic, overrides=own) as served, PostingLoad(served.port, 16) as load:
        answered(load, 300)
        large = event(pad=200_000)
        assert post(served.port, large, signed(large)).status in (413, 503)

        def replaced() -> bool:
            return (served.metrics.registry.get_sample_value("billing_gateway_producer_failures_total") or 0) > 0

        wait_until(replaced, within_s=30, what="a fatal error")
        answered(load, 300)
        load.stop()
        assert served.publisher.in_flight == 0
    assert {shot.status for shot in load.shots} == {200, 503}
    assert max(shot.seconds for shot in load.shots) < ANSWERED_WITHIN_S
    assert_all_stored_in_order(load, read_topic(kafka_bootstrap, topic))


def test_sigterm_under_load_loses_nothing(topics: Settings, tmp_path: Path) -> None:
    """Requests in flight finish, the producer is flushed, and the exit code is 0 (A6)."""
    with running(tmp_path, topics) as gateway, PostingLoad(gateway.port) as load:
        answered(load, 1000)
        gateway.popen.send_signal(signal.SIGTERM)
        assert gateway.wait() == 0
        load.stop()
        assert gateway.logged("kafka.producer_closed")[0]["records_given_up"] == 0
    assert {shot.status for shot in load.shots} <= {200, 0}
    assert_all_stored_in_order(load, read_topic(topics.kafka_bootstrap, topics.events_topic))


def test_T38_after_sigterm_it_is_not_ready_and_accepts_until_the_pause_ends(topics: Settings, tmp_path: Path) -> None:
    """A load balancer sends requests until it has noticed. A second signal ends the pause."""
    with running(tmp_path, topics, BILLING_GATEWAY_DRAIN_S="300") as gateway:
        wait_until(lambda: get(gateway.ops_port, "/readyz").status == 200, within_s=30, what="ready")
        gateway.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: get(gateway.ops_port, "/readyz").status == 503, within_s=30, what="not ready")
        answers = []
        for _ in range(8):
            body = event()
            answers.append(post(gateway.port, body, signed(body)))
        assert {answer.status for answer in answers} == {200}
        assert {answer.headers["Connection"].lower() for answer in answers} == {"close"}
        gateway.popen.send_signal(signal.SIGTERM)
        assert gateway.wait() == 0
        assert gateway.logged("kafka.producer_closed")[0]["records_given_up"] == 0
    assert len(read_topic(topics.kafka_bootstrap, topics.events_topic)) == 8


def test_kill_9_under_load_loses_nothing(topics: Settings, tmp_path: Path) -> None:
    """Events are stored before they are answered 200."""
    with running(tmp_path, topics) as gateway, PostingLoad(gateway.port) as load:
        answered(load, 1000)
        gateway.popen.kill()
        assert gateway.wait() == -signal.SIGKILL
        load.stop()
    assert_all_stored_in_order(load, read_topic(topics.kafka_bootstrap, topics.events_topic))


def test_several_processes_share_a_port(topics: Settings, tmp_path: Path) -> None:
    """Connections are spread over the processes, metrics cover all of them, SIGTERM ends all, and no event is lost."""
    with running(tmp_path, topics, BILLING_GATEWAY_PROCESSES="2") as gateway, PostingLoad(gateway.port, 24) as load:
        children = [psutil.Process(line["pid"]) for line in gateway.logged("gateway.listening")]
        answered(load, 500)
        load.stop()
        counted = f'outcome="accepted"}} {float(load.count(200))}'
        assert counted in get(gateway.ops_port, "/metrics").body.decode()
        gateway.popen.send_signal(signal.SIGTERM)
        assert gateway.wait() == 0
        assert not any(child.is_running() for child in children)
    assert_all_stored_in_order(load, read_topic(topics.kafka_bootstrap, topics.events_topic))


@pytest.mark.parametrize("victim", ["child", "parent"])
def test_several_processes_die_together(topics: Settings, tmp_path: Path, victim: str) -> None:
    """If a child dies, the parent exits with 1 for its supervisor. If the parent dies, no child keeps the port."""
    with running(tmp_path, topics, BILLING_GATEWAY_PROCESSES="2") as gateway:
        children = [psutil.Process(line["pid"]) for line in gateway.logged("gateway.listening")]
        if victim == "child":
            children[0].kill()
            assert gateway.wait() == 1
        else:
            gateway.popen.kill()
            gateway.wait()
        wait_until(lambda: not any(c.is_running() for c in children), within_s=30, what="all children ended")


def test_the_log_has_each_request_and_no_secret(topics: Settings, tmp_path: Path) -> None:
    """One line per request with its verdict; never the body, never a secret (A7)."""
    with running(tmp_path, topics) as gateway:
        body = event("cus_secretive", event_id="evt_logged", note="private")
        assert post(gateway.port, body, signed(body)).status == 200
        assert post(gateway.port, body, signed(body, FORGED)).status == 400
        wait_until(lambda: gateway.logged("webhook.refused"), within_s=30, what="the refusal's line")
        (accepted,) = gateway.logged("webhook.accepted")
        assert (accepted["event_id"], accepted["type"]) == ("evt_logged", "invoice.paid")
        (refused,) = gateway.logged("webhook.refused")
        assert (refused["status"], refused["outcome"]) == (400, "signature_mismatch")
        text = gateway.log.read_text()
        assert not any(word in text for word in (SECRET.decode(), "whsec", "private", "v1="))


def billing(command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return clikit.billing([command], env)


def test_a_failed_start_is_one_line_and_an_exit_code(topics: Settings, tmp_path: Path) -> None:
    """Missing setting or no endpoint: exit 2. Port in use: exit 1. One line each."""
    config = tmp_path / "billing.toml"
    config.write_text(f'[endpoints.default]\nsecrets = ["{SECRET.decode()}"]\n')
    env = environment(topics, config)
    missing = billing("gateway", {name: value for name, value in env.items() if name != "BILLING_KAFKA_BOOTSTRAP"})
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "BILLING_KAFKA_BOOTSTRAP" in missing.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for processes in ("1", "2"):
            extra = {"BILLING_GATEWAY_PORT": port, "BILLING_GATEWAY_PROCESSES": processes}
            refused = billing("gateway", env | extra)
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
            assert port in refused.stderr
    config.write_text("[plans]\n")
    empty = billing("gateway", env)
    assert (empty.returncode, empty.stderr.count("\n")) == (2, 1)
    assert "endpoints" in empty.stderr


def test_topics_are_made_once_and_checked_after(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> None:
    """`billing topics` can run again, and reports a partition count that differs from the requested one."""
    settings = Settings.model_construct(kafka_bootstrap=kafka_bootstrap, topic_prefix=topic_prefix)
    env = environment(settings, tmp_path / "unread.toml") | {"BILLING_PARTITIONS": "3"}
    first, again = billing("topics", env), billing("topics", env)
    assert (first.returncode, again.returncode) == (0, 0)
    assert f"{topic_prefix}.dead: created, 3 partitions" in first.stdout
    assert f"{topic_prefix}.events: present, 3 partitions" in again.stdout
    other = billing("topics", env | {"BILLING_PARTITIONS": "4"})
    assert (other.returncode, other.stderr.count("\n")) == (1, 1)
    assert f"{topic_prefix}.events has 3 partitions" in other.stderr
    (tmp_path / "unread.toml").write_text("[feed]\ntopic = true\n")
    assert f"{topic_prefix}.changes: created, 3 partitions" in billing("topics", env).stdout
