"""The scheduler's periodic reconciliation. Its errors do not affect the timers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from scheduler.reconcile import ReconcileSchedule
from sinks.postgres.positions import gap_of
from tests.kits.reconcilekit import CONFIG, ReconcileKit, events, open_kit
from tests.kits.storekit import ask
from tests.kits.stripelist import KEY
from tests.waiting import eventually


@pytest.fixture
async def desk(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[ReconcileKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as opened:
        yield opened


async def test_the_schedule_reconciles_and_survives_errors(desk: ReconcileKit) -> None:
    """Stripe is down, then up: the second try appends the missing events, then the schedule pauses."""
    desk.stripe.add_events(*events(10))
    settings = desk.settings.model_copy(
        update={"stripe_api_key": SecretStr(KEY), "stripe_api_base": desk.stripe.url, "stripe_calls_per_second": 100.0}
    )
    desk.stripe.key = "sk_test_another"
    schedule = ReconcileSchedule(
        settings, CONFIG, every=timedelta(hours=1), clock=lambda: datetime.now(UTC), retry=timedelta(seconds=0.1)
    )
    running = asyncio.create_task(schedule.run())

    async def is_troubled() -> bool:
        return "HTTP 401" in schedule.note()

    async def is_done() -> bool:
        query = "SELECT count(*) FROM billing.reconciliations WHERE ended_at IS NOT NULL"
        return bool(await ask(desk.settings.database_url, query))

    await eventually(is_troubled)
    desk.stripe.key = KEY
    await eventually(is_done)
    asked = len(desk.stripe.requests)
    assert len(await desk.ids()) == 10
    assert len(desk.stripe.requests) == asked
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_T13_what_kafka_deleted_unread_is_fetched_at_once_and_from_before_the_gap(
    desk: ReconcileKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.stripe.add_events(*events(20, over=timedelta(days=6)))
    settings = desk.settings.model_copy(
        update={"stripe_api_key": SecretStr(KEY), "stripe_api_base": desk.stripe.url, "stripe_calls_per_second": 100.0}
    )
    monkeypatch.setattr(ReconcileSchedule, "look", timedelta(seconds=0.1))
    schedule = ReconcileSchedule(settings, CONFIG, every=timedelta(days=1), clock=lambda: datetime.now(UTC))
    running = asyncio.create_task(schedule.run())
    ended = "SELECT count(*) FROM billing.reconciliations WHERE ended_at IS NOT NULL"
    await eventually(lambda: ask(desk.settings.database_url, ended))
    assert 0 < len(await desk.ids()) < 20  # the first run goes back one day

    async with desk.store.transaction([]) as transaction:
        await transaction.advance("g", "t", {0: 5, 1: 5})
    age = "UPDATE billing.positions SET updated_at = now() - interval '4 days' WHERE partition = 1"
    await ask(desk.settings.database_url, age)
    async with desk.store.transaction([]) as transaction:
        await transaction.note_gap("g", "t", [1])

    async def is_repaired() -> bool:
        return await gap_of(desk.settings.database_url) is None

    await eventually(is_repaired)
    assert len(set(await desk.ids())) == 20
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_scheduler_runs_it_beside_the_timers(desk: ReconcileKit, tmp_path: Path) -> None:
    desk.stripe.add_events(*events(10))

    async def is_done() -> bool:
        query = "SELECT count(*) FROM billing.reconciliations WHERE ended_at IS NOT NULL"
        return bool(await ask(desk.settings.database_url, query))

    with desk.running(tmp_path, "scheduler", BILLING_RECONCILE_EVERY_S="3600") as process:
        await eventually(is_done, process=process, log=tmp_path / "scheduler.log")
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0
    assert len(await desk.ids()) == 10
