"""The whole path against a broker with TLS, logins and ACLs: SASL_SSL with SCRAM, and mutual TLS."""

from __future__ import annotations

import asyncio
import json
import os
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from tests.kits import clikit
from tests.kits.gatewaykit import SECRET, event, post, signed
from tests.kits.securekit import (
    MTLS_USER,
    PASSWORD,
    USER,
    Authority,
    SecuredKafka,
    documented_acls,
    secured_kafka,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

CONFIG = f'[endpoints.default]\nsecrets = ["{SECRET.decode()}"]\n'


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("secured")) as kafka:
        yield kafka


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def base(migrated_url: str, prefix: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.toml").write_text(CONFIG)
    return {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")} | {
        "BILLING_DATABASE_URL": migrated_url,
        "BILLING_CONFIG": str(tmp_path / "config.toml"),
        "BILLING_TOPIC_PREFIX": prefix,
        "BILLING_PARTITIONS": "2",
        "BILLING_STATE_DIR": str(tmp_path),
        "BILLING_GATEWAY_PORT": "0",
        "BILLING_SESSION_TIMEOUT_S": "6",
    }


def billing(env: dict[str, str], *words: str, code: int = 0) -> str:
    """Runs one command; returns its output, or what it wrote to stderr if `code` is not 0."""
    done = clikit.billing(words, env, timeout=120)
    assert done.returncode == code, done.stderr
    assert_clean(done.stderr)
    return done.stdout if code == 0 else done.stderr


def assert_clean(stderr: str) -> None:
    """Every line is JSON, except one: the error, or the number of records that tap printed. None has the password."""
    plain = [line for line in stderr.splitlines() if line and not is_json(line)]
    assert len(plain) <= 1, stderr
    assert all(re.match(r"(billing )?\w+: |\d+ records$", line) for line in plain), stderr
    assert PASSWORD not in stderr


def is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


@contextmanager
def process(env: dict[str, str], name: str, log: Path) -> Iterator[clikit.ForkedProcess]:
    with clikit.running([name], env, log) as running:
        yield running
    assert_clean(log.read_text())


def applied(url: str) -> set[str]:
    async def look() -> set[str]:
        connection = await asyncpg.connect(url, timeout=30)
        try:
            rows = await connection.fetch("SELECT event_id FROM billing.events")
            return {row["event_id"] for row in rows}
        finally:
            await connection.close(timeout=30)

    return asyncio.run(look())


def logged(log: Path, action: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if is_json(line)]
    return [line for line in lines if line.get("action") == action]


def runs_end_to_end(env: dict[str, str], migrated_url: str, folder: Path) -> None:
    """Topics, gateway, worker and analytics, then a tap and a replay."""
    assert "created" in billing(env, "topics")
    logs = {name: folder / f"{name}.log" for name in ("gateway", "worker", "analytics")}
    body = event(event_id="evt_secured")
    with (
        process(env, "gateway", logs["gateway"]),
        process(env, "worker", logs["worker"]) as worker,
        process(env, "analytics", logs["analytics"]),
    ):
        wait_until(lambda: logged(logs["gateway"], "gateway.listening"), within_s=30, what="the gateway")
        port = int(str(logged(logs["gateway"], "gateway.listening")[0]["port"]))
        path = "/webhooks/stripe/default"
        wait_until(lambda: post(port, body, signed(body), path=path).status == 200, within_s=30, what="200")
        wait_until(lambda: "evt_secured" in applied(migrated_url), within_s=60, what="the event in the ledger")
        assert worker.poll() is None, logs["worker"].read_text()
        wait_until(lambda: logged(logs["analytics"], "analytics.started"), within_s=60, what="analytics")
    lines = billing(env, "tap", "--from-start", "--no-follow").splitlines()
    assert "evt_secured" in {json.loads(line)["event"]["id"] for line in lines}
    billing(env, "replay", "evt_secured")
    lines = billing(env, "tap", "--from-start", "--no-follow").splitlines()
    assert "replay" in {json.loads(line)["headers"]["source"] for line in lines}


def test_the_whole_path_with_tls_and_scram(
    secured: SecuredKafka, base: dict[str, str], prefix: str, migrated_url: str, tmp_path: Path
) -> None:
    """Only the documented ACLs, and the password from a file."""
    secured.allow(USER, documented_acls(prefix))
    (tmp_path / "password").write_text(PASSWORD + "\n")
    env = base | secured.scram_environment()
    del env["BILLING_KAFKA_SASL_PASSWORD"]
    env["BILLING_KAFKA_SASL_PASSWORD_FILE"] = str(tmp_path / "password")
    runs_end_to_end(env, migrated_url, tmp_path)
    env["BILLING_KAFKA_SASL_MECHANISM"] = "PLAIN"
    assert billing(env, "tap", "--from-start", "--no-follow", "--limit", "1")


def test_the_whole_path_with_client_certificates(
    secured: SecuredKafka, base: dict[str, str], prefix: str, migrated_url: str, tmp_path: Path
) -> None:
    secured.allow(MTLS_USER, documented_acls(prefix))
    runs_end_to_end(base | secured.certificate_environment(), migrated_url, tmp_path)


def test_a_wrong_password_and_an_unknown_authority_are_named(
    secured: SecuredKafka, base: dict[str, str], tmp_path: Path
) -> None:
    other = Authority.make(tmp_path / "other", "other-ca")
    good = secured.scram_environment()
    cases = (
        ("worker", {"BILLING_KAFKA_SASL_PASSWORD": "not-the-password"}, r"refuses the login.*Authentication failed"),
        ("topics", {"BILLING_KAFKA_SASL_PASSWORD": "not-the-password"}, r"refuses the login.*Authentication failed"),
        ("analytics", {"BILLING_KAFKA_SSL_CA": str(other.ca)}, r"TLS connection fails.*verify failed"),
        ("tap", {"BILLING_KAFKA_SSL_CA": str(other.ca)}, r"TLS connection fails.*verify failed"),
    )
    with ThreadPoolExecutor(len(cases)) as pool:  # each waits for an answer of the broker
        ended = [pool.submit(billing, base | good | wrong, name, code=3) for name, wrong, _ in cases]
        for (_, _, cause), stderr in zip(cases, (one.result() for one in ended), strict=True):
            assert re.search(cause, stderr), stderr
            assert "not-the-password" not in stderr


def test_a_plaintext_client_at_a_tls_port_learns_the_setting(secured: SecuredKafka, base: dict[str, str]) -> None:
    env = base | {"BILLING_KAFKA_BOOTSTRAP": secured.address("SASLSSL")}
    stderr = billing(env, "topics", code=3)
    assert "check BILLING_KAFKA_SECURITY_PROTOCOL=PLAINTEXT" in stderr


def test_each_missing_acl_is_named(secured: SecuredKafka, base: dict[str, str], prefix: str) -> None:
    """A user of its own, to whom the ACLs are given one after the other."""
    secured.add_user(prefix, PASSWORD)
    env = base | secured.scram_environment() | {"BILLING_KAFKA_SASL_USERNAME": prefix}
    everything = documented_acls(prefix)
    events, dead = f"{prefix}.events", f"{prefix}.dead"

    def missing(command: str, pattern: str) -> None:
        stderr = billing(env, command, code=3)
        assert re.search(rf"an ACL is missing .*({pattern})", stderr), stderr

    missing("topics", "Authorization failed")
    secured.allow(prefix, [acl for acl in everything if acl[1] in (events, dead) and acl[3] is not AclOperation.WRITE])
    billing(env, "topics")
    missing("worker", f"WRITE on topic {dead}")
    secured.allow(prefix, [(ResourceType.TOPIC, dead, ResourcePatternType.LITERAL, AclOperation.WRITE)])
    missing("worker", "[Gg]roup authorization failed")
    missing("analytics", "[Gg]roup authorization failed")
    secured.allow(prefix, [acl for acl in everything if acl[0] is ResourceType.GROUP])
    missing("worker", f"topic {prefix}.worker-seen-changelog|Authorization failed")
