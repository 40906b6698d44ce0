"""The scheduler's periodic audit: its result is stored and shown, and its errors do not affect the timers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from recovery.audit.results import audit_results, runs_and_results
from scheduler.audit import DIFFERENCES, AuditSchedule
from sinks.postgres.pool import reading
from tests.kits.auditkit import AuditKit, open_audit
from tests.kits.storekit import ask
from tests.waiting import eventually


class Quick(AuditSchedule):
    settle_s = 0.0


@pytest.fixture
async def kit(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[AuditKit]:
    async with open_audit(kafka_bootstrap, database, topic_prefix) as opened:
        await opened.apply(event.render() for event in opened.company.stripe.events())
        yield opened


@pytest.fixture(autouse=True)
def shown() -> Iterator[None]:
    DIFFERENCES.set(-1)
    yield
    DIFFERENCES.set(0)


@asynccontextmanager
async def scheduled(
    kit: AuditKit, *, ahead: timedelta = timedelta(0), reconciles: bool = False
) -> AsyncIterator[Quick]:
    settings = kit.desk.settings.model_copy(
        update={
            "stripe_api_key": SecretStr(kit.server.key),
            "stripe_api_base": kit.server.url,
            "stripe_calls_per_second": 100.0,
            "reconcile_every_s": None if reconciles else 0.0,
        }
    )
    schedule = Quick(
        settings,
        kit.config,
        every=timedelta(days=1),
        clock=lambda: datetime.now(UTC) + ahead,
        retry=timedelta(seconds=0.1),
        chance=lambda: 0.0,
    )
    running = asyncio.create_task(schedule.run())
    try:
        yield schedule
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def ended(kit: AuditKit) -> int:
    query = "SELECT count(*) FROM billing.audits WHERE ended_at IS NOT NULL AND scope = ''"
    return int(await ask(kit.desk.settings.database_url, query))


async def has_ended(kit: AuditKit, times: int, differences: int) -> None:
    """Wait until so many scheduled audits have ended, and the gauge shows the newest result."""

    async def has() -> bool:
        query = "SELECT count(*) FROM billing.audits WHERE ended_at IS NOT NULL AND scope = ''"
        shown = REGISTRY.get_sample_value("billing_audit_differences")
        count: int = await ask(kit.desk.settings.database_url, query)
        return (shown, count) == (differences, times)

    await eventually(has)


async def test_D11_the_schedule_audits_and_shows_the_newest_result(kit: AuditKit) -> None:
    """Stripe refuses the key, then answers and the books agree; the next day a row differs until it is repaired."""
    database = kit.desk.settings.database_url

    async def is_troubled() -> bool:
        return "HTTP 401" in schedule.note()

    key = kit.server.key
    async with scheduled(kit) as schedule:
        kit.server.key = "sk_test_anotherKeyOfThisAccount0000"
        await eventually(is_troubled)
        kit.server.key = key
        await has_ended(kit, 1, differences=0)
        assert schedule.note() == "ok"

    subscription = next(one for one in kit.books.all("subscription") if one["status"] == "active")
    change = "UPDATE billing.subscriptions SET status = $2 WHERE subscription_id = $1 RETURNING 1"
    await ask(database, change, subscription["id"], "past_due")
    async with scheduled(kit, ahead=timedelta(days=1, minutes=1)):
        await has_ended(kit, 2, differences=1)
    async with reading(database) as connection:
        found = await audit_results(connection)
    assert found is not None
    assert found.differences == 1

    await ask(database, change, subscription["id"], "active")
    assert (await kit.audit(since=datetime.now(UTC) - timedelta(days=1))).agrees
    async with reading(database) as connection:
        found = await audit_results(connection)
        shown = await runs_and_results(connection)
    assert found is not None
    assert found.differences == 1, "an audit of one day does not replace one of seven"
    assert shown["audit"]["differences"] == 1, "nor in the console and in billing status"
    assert (await kit.audit(ahead=timedelta(days=1, minutes=2))).agrees
    async with scheduled(kit, ahead=timedelta(days=1, minutes=10)):
        await has_ended(kit, 2, differences=0)


async def test_D11_an_audit_that_is_due_waits_for_the_reconciliation(kit: AuditKit) -> None:
    """What the reconciliation is going to fetch would be reported as missing."""
    async with scheduled(kit, reconciles=True) as waiting:
        assert await waiting.time_left(timedelta(0)) > timedelta(0)
        await ask(
            kit.desk.settings.database_url,
            "INSERT INTO billing.reconciliations (account, scope, started_at, ended_at, window_from, window_until, "
            "cursor) VALUES ('', '', now(), now(), now(), now(), now()) RETURNING 1",
        )
        await has_ended(kit, 1, differences=0)
