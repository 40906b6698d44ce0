"""`billing scheduler` as a process: ready while it works, not ready while it cannot, exit code 0 on SIGTERM."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from local.stack.ports import free_port
from schemas.settings import Config
from tests.kits import clikit
from tests.kits.timerkit import TimerKit, errand
from tests.waiting import eventually

pytestmark = pytest.mark.e2e


@contextmanager
def _scheduler(env: dict[str, str], log: Path) -> Iterator[clikit.ForkedProcess]:
    with clikit.running(["scheduler"], env, log) as process:
        yield process


def _env(bootstrap: str, url: str, prefix: str, port: int, folder: Path) -> dict[str, str]:
    (folder / "config.toml").write_text("")
    return {
        **os.environ,
        "BILLING_KAFKA_BOOTSTRAP": bootstrap,
        "BILLING_DATABASE_URL": url,
        "BILLING_CONFIG": str(folder / "config.toml"),
        "BILLING_TOPIC_PREFIX": prefix,
        "BILLING_OPS_PORT": str(port),
    }


async def _answer(port: int, path: str) -> tuple[int, str]:
    try:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientConnectionError:
        return 0, ""


async def test_it_fires_shows_it_and_ends_on_sigterm(
    kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    rig = await TimerKit.open(kafka_bootstrap, SecretStr(migrated_url), topic_prefix, 1, Config())
    port, log = free_port(), tmp_path / "scheduler.log"

    async def ready() -> object:
        return (await _answer(port, "/readyz"))[0] == 200

    async def fired() -> object:
        return await rig.statuses() == {"errand:a": "fired"}

    async def counted() -> object:
        return 'billing_timers_fired_total{kind="errand"} 1.0' in (await _answer(port, "/metrics"))[1]

    try:
        with _scheduler(_env(kafka_bootstrap, migrated_url, topic_prefix, port, tmp_path), log) as process:
            await eventually(ready, within_s=30)
            await rig.start(errand("a", datetime.now(UTC)))
            await eventually(fired, within_s=30)
            await eventually(counted)
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0
        assert [record.headers["type"] for record in rig.read()] == ["timer.errand"]
        assert '"action":"timer.fired"' in log.read_text()
    finally:
        await rig.close()


async def test_without_postgres_it_waits_and_reports_it(topic_prefix: str, tmp_path: Path) -> None:
    """An outage does not end the process. It is alive and not ready, and the reason contains no password."""
    port = free_port()
    url = f"postgresql://billing:hunter2@127.0.0.1:{free_port()}/billing"
    env = _env(f"127.0.0.1:{free_port()}", url, topic_prefix, port, tmp_path)

    async def unready() -> object:
        return (await _answer(port, "/readyz"))[0] == 503

    with _scheduler(env, tmp_path / "scheduler.log") as process:
        await eventually(unready, within_s=30)
        assert (await _answer(port, "/livez"))[0] == 200
        _, reason = await _answer(port, "/readyz")
        assert "no answer from Postgres" in reason
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0
    assert "hunter2" not in reason + (tmp_path / "scheduler.log").read_text()
