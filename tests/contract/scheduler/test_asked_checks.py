"""Checks asked for in the console: the scheduler does each once, in the name of who asked, or says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from recovery.reconcile.runs import Runs
from scheduler import asked_checks
from scheduler.asked_checks import AskedChecks
from schemas.asked_checks import AUDIT, RECONCILE, RECONCILE_DRY, AskedCheck
from schemas.console_settings import Role
from schemas.settings import Config
from schemas.timing import utc_now
from sinks.postgres import owned_job
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import ConsoleActions, Job, Performed
from tests.kits.consolekit import Browser, console_settings, ended, fields_of, serving
from tests.kits.reconcilekit import ReconcileKit, events, open_kit
from tests.kits.storekit import ask
from tests.kits.stripelist import KEY
from tests.waiting import eventually

FORM = "a-key-of-a-form-1"


@dataclass
class Rig:
    """A scheduler's part, and the Stripe that it asks."""

    desk: ReconcileKit
    checks: AskedChecks
    records: ConsoleActions

    async def asked(self, action: str, **filter: Any) -> None:
        entry = AuditEntry(who="sam", role="operator", action=f"console.{action}", filter=filter)
        assert await self.records.begin(FORM, entry, job=Job(None, None))

    async def found(self) -> Performed:
        job = await self.records.find(FORM)
        assert job is not None
        return job

    async def logged(self) -> str:
        url = self.desk.settings.database_url
        return str(
            await ask(url, "SELECT string_agg(outcome || ' ' || coalesce(count, -1), ',') FROM billing.audit_log")
        )


@pytest.fixture
async def rig(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    monkeypatch.setattr(owned_job, "RETRY_S", 0.05)
    monkeypatch.setattr(asked_checks, "STOP_S", 0.05)
    async with open_kit(kafka_bootstrap, database, topic_prefix) as desk:
        more = {"stripe_api_key": SecretStr(KEY), "stripe_api_base": desk.stripe.url, "stripe_calls_per_second": 100.0}
        settings = desk.settings.model_copy(update=more)
        yield Rig(desk, AskedChecks(settings, Config(), settle_s=0.0), ConsoleActions(database))


async def test_a_look_appends_nothing_and_the_next_run_what_is_missing(rig: Rig) -> None:
    rig.desk.stripe.add_events(*events(5))
    await rig.asked(RECONCILE_DRY)
    await rig.checks.turn()
    job = await rig.found()
    assert (job.status, job.result["missing"], job.result["fed"]) == ("done", 5, 0)
    assert [each["event_id"] for each in job.result["examples"]] == [f"evt_{number:05}" for number in range(5)]
    assert await rig.desk.ids() == []
    await rig.checks.turn()
    assert (await rig.found()).ended_at == job.ended_at, "it is done once"

    entry = AuditEntry(who="sam", role="operator", action=f"console.{RECONCILE}", filter=AskedCheck(2).as_filter())
    await rig.records.begin(f"{FORM}-next", entry, job=Job(None, None))
    await rig.checks.turn()
    assert len(await rig.desk.ids()) == 5
    assert await rig.logged() == "done 0,done 5"


async def test_an_audit_says_how_much_it_has_compared(rig: Rig, database: SecretStr) -> None:
    rig.desk.stripe.add_events(*events(3))
    await rig.asked(AUDIT, days=2)
    await rig.checks.turn()
    job = await rig.found()
    assert (job.status, job.note) == ("done", None)
    assert (job.result["compared"], job.result["differences"]) == (3, 3)
    (account,) = job.result["accounts"]
    stored = await ask(database, f"SELECT count(*) FROM billing.audit_differences WHERE run_id = {account['run_id']}")
    assert stored == 3


@pytest.mark.parametrize(
    ("settings", "filter", "note"),
    [
        ({"stripe_api_key": None}, {}, "BILLING_STRIPE_API_KEY is not set"),
        ({"stripe_api_key": SecretStr("rk_live_51QwertyuiopAsdfghjklZxcvbnm")}, {}, "BILLING_STRIPE_API_KEY"),
        ({}, {}, "own account: "),
        ({}, {"colour": "red"}, "unexpected: ValueError"),
    ],
    ids=["no key", "a key of the other mode", "no right", "a filter of another version"],
)
async def test_a_check_that_cannot_be_done_ends_with_the_reason(
    rig: Rig, settings: dict[str, Any], filter: dict[str, Any], note: str
) -> None:
    rig.desk.stripe.forbidden = {"events"}
    rig.checks.settings = rig.checks.settings.model_copy(update=settings)
    await rig.asked(RECONCILE, **filter)
    await rig.checks.turn()
    job = await rig.found()
    assert job.status == "failed"
    assert (job.note or "").startswith(note)
    assert (await rig.logged()).startswith("failed")


async def test_a_check_waits_for_another_one_and_can_be_stopped(rig: Rig) -> None:
    other = await Runs.connect(rig.desk.settings.database_url)
    assert await other.take_turn()
    await rig.asked(RECONCILE)
    working = asyncio.create_task(rig.checks.turn())

    async def waits() -> bool:
        return "this one begins after it" in ((await rig.found()).note or "")

    await eventually(waits, "the other run is named")
    assert await rig.records.want(FORM, "stop", AuditEntry(who="sam", role="operator", action="console.job.stop"))
    await asyncio.wait_for(working, 30)
    other.close()
    assert (await rig.found()).status == "stopped"


async def test_a_slow_check_stops_when_it_is_asked_to(rig: Rig) -> None:
    rig.desk.stripe.add_events(*events(3))
    rig.desk.stripe.hang_at = 1
    await rig.asked(RECONCILE)
    working = asyncio.create_task(rig.checks.turn())

    async def is_taken() -> bool:
        return (await rig.found()).seen_at is not None

    await eventually(is_taken, "the scheduler has the job")
    assert await rig.records.want(FORM, "stop", AuditEntry(who="sam", role="operator", action="console.job.stop"))
    await asyncio.wait_for(working, 30)
    assert (await rig.found()).status == "stopped"


async def test_another_scheduler_takes_over_what_a_dead_one_had(rig: Rig, database: SecretStr) -> None:
    rig.desk.stripe.add_events(*events(3))
    await rig.asked(RECONCILE)
    assert await rig.records.take(FORM, "a dead scheduler")
    await rig.checks.turn()
    assert (await rig.found()).ended_at is None, "it was seen a moment ago"
    await ask(database, "UPDATE billing.console_actions SET seen_at = now() - interval '31 s' RETURNING 1")
    await rig.checks.turn()
    assert (await rig.found()).status == "done"


async def test_an_operator_asks_on_the_page_and_sees_the_result(rig: Rig, tmp_path: Path) -> None:
    desk = rig.desk.settings
    settings = console_settings(desk.database_url, desk.kafka_bootstrap, desk.topic_prefix, tmp_path)
    rig.desk.stripe.add_events(*events(4))
    async with serving(settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        path = await _asked(operator, {"what": "append", "days": "2"})
        page = await operator.page(path)
        assert "waits for the scheduler" in page
        await asyncio.gather(rig.checks.turn(), rig.checks.turn())
        job = await ended(operator, path)
        assert (job["status"], job["result"]["fed"]) == ("done", 4)
        page = await operator.page(path)
        assert "evt_00000" in page
        assert "own account" in page
        for wrong in ({"what": "append", "days": "91"}, {"what": "burn"}, {"what": "append", "days": "-1"}):
            form = fields_of(await operator.page("/checks/reconcile")) | wrong
            assert (await operator.post("/checks/reconcile", form)).status == 400
        assert (await operator.post("/checks/diff", {"key": FORM})).status == 400
    assert len(await rig.desk.ids()) == 4


async def _asked(operator: Browser, chosen: dict[str, str]) -> str:
    """Sends the form twice, as a double click does. Returns the page of the one job."""
    form = fields_of(await operator.page("/checks/reconcile")) | chosen
    first, second = [(await operator.post("/checks/reconcile", form)).headers["Location"] for _ in range(2)]
    assert first == second
    return first


def test_the_window_of_a_job_does_not_move_while_it_waits() -> None:
    asked_at = utc_now() - timedelta(hours=3)
    assert AskedCheck.of_filter({"days": 2}).since(asked_at) == asked_at - timedelta(days=2)
    assert AskedCheck.of_filter({}).since(asked_at) is None
