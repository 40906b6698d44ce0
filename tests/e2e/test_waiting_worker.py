"""A running worker with its table of settled events: a waiting event is not settled, so it is processed again later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.settings import Config
from tests.kits import clikit
from tests.kits.timerkit import TimerKit
from tests.waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def worker_env(kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.toml").write_text("")
    return {
        **os.environ,
        "BILLING_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "BILLING_DATABASE_URL": migrated_url,
        "BILLING_CONFIG": str(tmp_path / "config.toml"),
        "BILLING_TOPIC_PREFIX": topic_prefix,
        "BILLING_STATE_DIR": str(tmp_path),
        "BILLING_LOG_LEVEL": "warning",
    }


@contextmanager
def _worker(env: dict[str, str], log: Path) -> Iterator[clikit.ForkedProcess]:
    with clikit.running([], env, log, module="tests.e2e.errands_worker") as process:
        yield process


async def test_it_waits_comes_back_and_is_applied(
    kafka_bootstrap: str, migrated_url: str, topic_prefix: str, worker_env: dict[str, str], tmp_path: Path
) -> None:
    rig = await TimerKit.open(kafka_bootstrap, SecretStr(migrated_url), topic_prefix, 1, Config())
    log = tmp_path / "worker.log"
    try:
        with _worker(worker_env, log) as worker:

            async def ledger_has(event_id: str, outcome: str, least: int) -> bool:
                """At least so many attempts: a batch that meets the scheduler's commit is tried once more."""
                assert worker.poll() is None, log.read_text()
                rows = await rig.rows("SELECT event_id, outcome, attempts FROM billing.events")
                return any(
                    (row["event_id"], row["outcome"]) == (event_id, outcome) and row["attempts"] >= least
                    for row in rows
                )

            rig.send("evt_1", "user.answered", "cus_1", user="u1", customer="cus_1")
            await eventually(lambda: ledger_has("evt_1", "waiting", 1), within_s=60)
            rig.send("evt_1", "user.answered", "cus_1", user="u1", customer="cus_1")
            await eventually(lambda: ledger_has("evt_1", "waiting", 2), within_s=30)
            rig.send("evt_2", "user.came", "cus_1", user="u1", customer="cus_1")
            await eventually(lambda: ledger_has("evt_2", "applied", 1), within_s=30)

            rig.now = datetime.now(UTC) + timedelta(hours=1)  # the worker's clock is the real one
            assert await rig.scheduler().fire_due() == 1

            await eventually(lambda: ledger_has("evt_1", "applied", 3), within_s=30)
        assert await rig.trails() == {"u1": "evt_2,evt_1"}
        assert await rig.statuses() == {"retry:evt_1": "done"}
    finally:
        await rig.close()
