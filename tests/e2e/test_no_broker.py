"""Without a broker every process writes JSON lines to stderr, or the one line of its error: never librdkafka's own."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.kits import clikit
from tests.kits.gatewaykit import SECRET
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

CONFIG = f'[endpoints.default]\nsecrets = ["{SECRET.decode()}"]\n'


NEED_THE_BROKER = {words[0]: words for words in (["worker"], ["analytics"], ["topics"], ["tap", "--no-follow"])}
WAIT_FOR_THE_BROKER = ("gateway", "dispatcher", "scheduler")


@pytest.fixture
async def environment(migrated_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.toml").write_text(CONFIG)
    return {
        "PATH": "/usr/bin:/bin",
        "BILLING_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "BILLING_DATABASE_URL": migrated_url,
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


async def test_commands_exit_3_with_one_line_and_processes_wait_with_json(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """All at the same time: each takes the seconds in which a broker may still come up."""
    logs = {name: tmp_path / f"{name}.log" for name in WAIT_FOR_THE_BROKER}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(clikit.running([name], environment, log)) for name, log in logs.items()}
        runs = (
            asyncio.to_thread(clikit.billing, words, environment, timeout=120) for words in NEED_THE_BROKER.values()
        )
        for name, done in zip(NEED_THE_BROKER, await asyncio.gather(*runs), strict=True):
            assert done.returncode == 3, done.stderr
            (line,) = _not_json(done.stderr.splitlines())
            assert name in line
            assert "Connection refused" in line
        for name, process in processes.items():
            reported = partial(_reports_the_broker, logs[name])
            await eventually(reported, f"{name} reports the broker", process=process, log=logs[name])
        for name, process in processes.items():
            assert process.poll() is None, logs[name].read_text()
    for log in logs.values():
        lines = log.read_text().splitlines()
        assert lines
        assert _not_json(lines) == []


def _reports_the_broker(log: Path) -> bool:
    return log.exists() and "refused" in log.read_text()
