"""Every command ends with the exit code of its cause and one line that starts with its own name."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from sinks.postgres.outboxes import OUTBOXES
from tests.kits.clikit import billing

CONFIG = 'mode = "test"\n[endpoints.default]\nsecrets = ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]\n'
KEY = "sk_test_" + "1" * 24

POSTGRES_AWAY = [
    ["event", "evt_1"],
    ["customer", "cus_1"],
    ["mrr"],
    ["dead", "ls"],
    ["dead", "show", "evt_1"],
    ["dead", "replay"],
    ["dead", "discard", "--all"],
    ["brake", "ls"],
    ["brake", "release"],
    *([outbox.command, "ls"] for outbox in OUTBOXES),
    *([outbox.command, "requeue", "--all"] for outbox in OUTBOXES),
    ["mail", "discard", "--all"],
    ["mail", "show", "key"],
    ["replay", "evt_1"],
    ["replay", "--failed"],
    ["migrate", "--wait", "0"],
    ["diff", "--with", "postgresql://billing@127.0.0.1:1/other"],
    ["rebuild", "--into", "postgresql://billing@127.0.0.1:1/other"],
    ["reconcile"],
    ["analytics", "recount"],
]
KAFKA_AWAY = [["topics"], ["tap", "--from-start", "--no-follow"], ["worker"], ["analytics"]]
NOTHING_ANSWERS = [*POSTGRES_AWAY, *KAFKA_AWAY, ["trigger", "invoice.paid"]]
LOOKUPS = ("event", "customer", "mrr", "brake", "migrate", *(outbox.command for outbox in OUTBOXES))
NEED_SETTINGS = [*POSTGRES_AWAY, *KAFKA_AWAY, ["gateway"], ["dispatcher"], ["scheduler"], ["trigger", "invoice.paid"]]


def _name(words: list[str]) -> str:
    groups = ("dead", "brake", *(outbox.command for outbox in OUTBOXES))
    return " ".join(words[:2]) if words[0] in groups or words[1:2] == ["recount"] else words[0]


def _id(words: list[str]) -> str:
    return "-".join(words[:2])


def _assert_one_line(done: subprocess.CompletedProcess[str], code: int, words: list[str]) -> None:
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # log lines are JSON
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert lines[0].startswith(f"billing {_name(words)}: "), lines
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def away(tmp_path: Path) -> dict[str, str]:
    return _away(tmp_path)


def _away(folder: Path) -> dict[str, str]:
    """Settings of which nothing answers."""
    config = folder / "billing.toml"
    config.write_text(CONFIG)
    return {
        "BILLING_DATABASE_URL": "postgresql://billing:hunter2@127.0.0.1:1/billing",
        "BILLING_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "BILLING_CONFIG": str(config),
        "BILLING_STATE_DIR": str(folder),
        "BILLING_STRIPE_API_KEY": KEY,
        "BILLING_STRIPE_API_BASE": "http://127.0.0.1:1",
        "BILLING_GATEWAY_URL": "http://127.0.0.1:1",
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Every command while nothing answers, by its words. They wait for a broker at the same time."""
    settings = _away(tmp_path_factory.mktemp("away"))
    with ThreadPoolExecutor(len(NOTHING_ANSWERS)) as pool:
        yield {_id(words): pool.submit(billing, words, settings) for words in NOTHING_ANSWERS}


@pytest.mark.parametrize("words", NOTHING_ANSWERS, ids=_id)
def test_nothing_answers(words: list[str], answers: dict[str, Future[subprocess.CompletedProcess[str]]]) -> None:
    _assert_one_line(answers[_id(words)].result(120), 3, words)


@pytest.mark.parametrize(
    "words",
    [words for words in POSTGRES_AWAY if words[0] in LOOKUPS] + [["dead", "ls"], ["dead", "discard", "--all"]],
    ids=_id,
)
def test_a_lookup_needs_only_the_database(words: list[str], away: dict[str, str]) -> None:
    """Neither a missing nor an invalid setting of Kafka or the config stops it."""
    env = {"BILLING_DATABASE_URL": away["BILLING_DATABASE_URL"], "BILLING_KAFKA_SECURITY_PROTOCOL": "nonsense"}
    _assert_one_line(billing(words, env), 3, words)


@pytest.mark.parametrize("words", NEED_SETTINGS, ids=_id)
def test_a_setting_is_missing(words: list[str], tmp_path: Path) -> None:
    _assert_one_line(billing(words, {"BILLING_STATE_DIR": str(tmp_path)}), 2, words)


@pytest.mark.parametrize(
    "words",
    [
        ["event", "evt_typo"],
        ["customer", "cus_typo"],
        ["dead", "show", "evt_typo"],
        ["dead", "replay", "--id", "evt_typo"],
        ["dead", "replay", "--dry-run", "--id", "evt_typo"],
        ["dead", "discard", "--id", "evt_typo"],
        ["brake", "release", "--group", "typo"],
        ["mail", "requeue", "typo"],
        ["mail", "show", "typo"],
        ["exports", "requeue", "typo"],
        ["calls", "requeue", "typo"],
    ],
    ids=_id,
)
def test_the_id_is_unknown(words: list[str], away: dict[str, str], database: SecretStr) -> None:
    done = billing(words, away | {"BILLING_DATABASE_URL": database.get_secret_value()})
    lines = [line for line in done.stderr.splitlines() if line != "0 requeued"]
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith(f"billing {_name(words)}: "), lines
    assert "typo" in lines[0]


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "--rate", "abc", "--failed"],
        ["replay", "evt_1", "--rate", "abc"],
        ["dead", "replay", "--rate", "abc"],
        ["dead", "ls", "--since", "yesterday"],
        ["dead", "discard"],
        ["mail", "requeue"],
        ["calls", "requeue"],
        ["tap", "--since", "24h", "--from-start"],
        ["trigger", "no.such.type"],
        ["worker", "nonsense"],
        ["reconcile", "--since", "yesterday"],
    ],
    ids=_id,
)
def test_an_argument_is_wrong(words: list[str], away: dict[str, str]) -> None:
    _assert_one_line(billing(words, away), 2, words)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("process", ["worker", "dispatcher", "scheduler", "analytics"])
def test_a_taken_ops_port(
    process: str,
    taken: int,
    away: dict[str, str],
    database: SecretStr,
    kafka_bootstrap: str,
    topic_prefix: str,
) -> None:
    """Each process says so in one line and exits 1, not with a traceback."""
    env = away | {
        "BILLING_DATABASE_URL": database.get_secret_value(),
        "BILLING_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "BILLING_TOPIC_PREFIX": topic_prefix,
        "BILLING_PARTITIONS": "1",
        "BILLING_OPS_PORT": str(taken),
    }
    assert billing(["topics"], env).returncode == 0
    done = billing([process], env)
    _assert_one_line(done, 1, [process])
    assert f"127.0.0.1:{taken}" in done.stderr


def test_a_contract_is_checked_only_where_it_is(tmp_path: Path) -> None:
    done = billing(["contract", "--check"], {}, cwd=tmp_path)
    _assert_one_line(done, 2, ["contract"])
    assert not any(tmp_path.iterdir())
