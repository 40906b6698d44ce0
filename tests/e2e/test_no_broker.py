"""Without a broker every process writes JSON lines to stderr, or the one line of its error: never librdkafka's own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from sinks.postgres.migration import migrate
from tests.kits import clikit
from tests.kits.gatewaykit import SECRET
from tests.paths import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

CONFIG = f'[endpoints.default]\nsecrets = ["{SECRET.decode()}"]\n'


@pytest.fixture
async def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.toml").write_text(CONFIG)
    await migrate(SecretStr(database_url))
    return {
        "PATH": "/usr/bin:/bin",
        "BILLING_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "BILLING_DATABASE_URL": database_url,
        "BILLING_CONFIG": str(tmp_path / "config.toml"),
        "BILLING_STATE_DIR": str(tmp_path),
        "BILLING_GATEWAY_PORT": "0",
    }


def _not_json(lines: list[str]) -> list[str]:
    def is_json(line: str) -> bool:
        try:
            return isinstance(json.loads(line), dict)
        except ValueError:
            return False

    return [line for line in lines if line and not is_json(line)]


@pytest.mark.parametrize(
    "words", [["worker"], ["analytics"], ["topics"], ["tap", "--no-follow"]], ids=lambda words: str(words[0])
)
def test_a_command_that_needs_the_broker_exits_3_with_one_line(environment: dict[str, str], words: list[str]) -> None:
    done = clikit.billing(words, environment, timeout=120)
    assert done.returncode == 3, done.stderr
    (line,) = _not_json(done.stderr.splitlines())
    assert words[0] in line
    assert "Connection refused" in line


@pytest.mark.parametrize("name", ["gateway", "dispatcher", "scheduler"])
def test_a_process_that_waits_for_the_broker_logs_json(environment: dict[str, str], name: str, tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "ops.cli", name], cwd=ROOT, env=environment, stderr=out)
    try:
        wait_until(lambda: log.stat().st_size > 0, "the first line", process=process, log=log)
        time.sleep(3)  # librdkafka reports a refused connection within a second
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(30)
    lines = log.read_text().splitlines()
    assert lines
    assert _not_json(lines) == []
