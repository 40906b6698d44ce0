"""Checks asked for in the console: the scheduler does each once, in the name of who asked, or says why not."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from recovery.reconcile.runs import Runs
from recovery.window import KEPT
from scheduler import asked_checks
from scheduler.asked_checks import AskedChecks
from schemas.asked_checks import AUDIT, MOST_DAYS, RECONCILE, RECONCILE_DRY, AskedCheck
from schemas.console_settings import Role
from schemas.settings import Config
from schemas.timing import Timetable, utc_now
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import Job
from sinks.stripe_api.listing import Lists
from tests.kits.checkskit import FORM, Rig, begun, stopped
from tests.kits.consolekit import Browser, console_settings, ended, fields_of, serving
from tests.kits.reconcilekit import events
from tests.kits.storekit import ask
from tests.waiting import eventually


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


async def test_a_check_waits_for_another_one_and_can_bestopped(rig: Rig) -> None:
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


@pytest.mark.parametrize(
    ("action", "fault", "named"),
    [
        (RECONCILE, "drop", "NoAnswer"),
        (AUDIT, "500", "HTTP 500"),
    ],
)
async def test_an_outage_of_stripe_is_waited_for_but_not_without_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, action: str, fault: str, named: str
) -> None:
    quick = Timetable(first=timedelta(seconds=0.01), factor=2, tries=2)
    defaults = Lists.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timetable", quick)
    monkeypatch.setattr(asked_checks, "AGAIN_S", 0.01)
    rig.desk.stripe.add_events(*events(3))
    rig.desk.stripe.faults.extend([fault] * 8)
    await rig.asked(action, days=1)
    await rig.checks.turn()
    assert (await rig.found()).status == "done"
    monkeypatch.setattr(asked_checks, "OUTAGE_S", 0.3)
    rig.desk.stripe.faults.extend([fault] * 1000)
    entry = AuditEntry(who="sam", role="operator", action=f"console.{action}", filter={"days": 1})
    await rig.records.begin(f"{FORM}-next", entry, job=Job(None, None))
    await rig.checks.turn()
    job = await rig.records.find(f"{FORM}-next")
    assert job is not None
    assert job.status == "failed"
    assert (job.note or "").startswith("own account: ")
    assert named in (job.note or "")


@pytest.mark.parametrize(
    ("action", "faults", "status"),
    [
        (AUDIT, ["ok", "500"] * 3, "done"),
        (AUDIT, ["ok", "500", "500"], "failed"),
        (RECONCILE, ["ok", "500"] * 3, "done"),
        (RECONCILE, ["ok", "500", "500"], "failed"),
        (RECONCILE_DRY, ["ok", "500", "ok", "ok", "500"], "done"),
        (RECONCILE_DRY, ["ok", "500", "ok", "500"], "failed"),
    ],
)
async def test_a_check_that_advances_between_two_refusals_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, action: str, faults: list[str], status: str
) -> None:
    """Every two refusals are too far apart here. A dry run advances once it gets further than all before."""
    defaults = Lists.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timetable", Timetable(first=timedelta(seconds=0.01), factor=2, tries=1))
    monkeypatch.setattr(asked_checks, "AGAIN_S", 0.01)
    monkeypatch.setattr(asked_checks, "OUTAGE_S", 1e-9)
    ago = timedelta(hours=6) if action == RECONCILE else timedelta(hours=23, minutes=50)
    rig.desk.stripe.add_events(*events(40, over=ago))
    rig.desk.stripe.faults.extend(faults)
    await rig.asked(action, days=1)
    await rig.checks.turn()
    job = await rig.found()
    assert (job.status, list(rig.desk.stripe.faults)) == (status, [])


async def test_a_check_shows_a_long_pause_that_stripe_asks_for(rig: Rig) -> None:
    """It waits by its own timetable, and not within one request for the hours that Stripe names."""
    rig.desk.stripe.retry_after_s = 3600
    rig.desk.stripe.faults.extend(["429"] * 1000)
    await rig.asked(RECONCILE)
    working = await begun(rig, lambda job: "waits: own account: Refusal: HTTP 429" in (job.note or ""), "it waits")
    await stopped(rig, working)


async def test_a_stopped_audit_is_no_open_run(rig: Rig, database: SecretStr) -> None:
    rig.desk.stripe.add_events(*events(3))
    await rig.asked(AUDIT, days=2)
    rig.desk.stripe.hang_at = 4
    working = asyncio.create_task(rig.checks.turn())

    async def is_open() -> bool:
        return bool(await ask(database, "SELECT count(*) FROM billing.audits WHERE ended_at IS NULL"))

    await eventually(is_open, "the audit has begun")
    await ask(
        database,
        "INSERT INTO billing.audit_objects (run_id, kind, object_id) SELECT run_id, 'charge', 'ch_9' "
        "FROM billing.audits RETURNING 1",
    )
    await stopped(rig, working)
    assert await ask(database, "SELECT last_error FROM billing.audits") == "stopped"
    assert await ask(database, "SELECT count(*) FROM billing.audit_objects") == 0


async def test_one_check_of_a_kind_is_open_at_a_time(rig: Rig, tmp_path: Path) -> None:
    desk = rig.desk.settings
    settings = console_settings(desk.database_url, desk.kafka_bootstrap, desk.topic_prefix, tmp_path)
    async with serving(settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        forms = [fields_of(await operator.page("/checks/reconcile")) | {"what": "look"} for _ in range(4)]
        answers = await asyncio.gather(*(operator.post("/checks/reconcile", form) for form in forms))
        assert sorted(answer.status for answer in answers) == [303, 409, 409, 409]
        (path,) = [answer.headers["Location"] for answer in answers if answer.status == 303]
        for answer in answers:
            assert answer.status == 303 or path in await answer.text()
        audit = fields_of(await operator.page("/checks/audit")) | {"days": "2"}
        assert (await operator.post("/checks/audit", audit)).status == 303, "an audit is another kind"
        await rig.checks.turn()
        again = fields_of(await operator.page("/checks/reconcile")) | {"what": "look"}
        assert (await operator.post("/checks/reconcile", again)).status == 303


async def test_what_was_found_missing_is_appended_over_the_same_window(rig: Rig, tmp_path: Path) -> None:
    desk = rig.desk.settings
    settings = console_settings(desk.database_url, desk.kafka_bootstrap, desk.topic_prefix, tmp_path)
    rig.desk.stripe.add_events(*events(2))
    await rig.asked(RECONCILE_DRY, days=3, all_accounts=True)
    await rig.checks.turn()
    async with serving(settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        page = await operator.page(f"/jobs/{FORM}")
        path = re.findall(r'href="(/checks/reconcile[^"]*)"', page)[-1].replace("&amp;", "&")
        assert path == "/checks/reconcile?what=append&days=4&accounts=all"
        form = await operator.page(path)
        assert 'value="append" checked' in form
        assert 'name="days" value="4"' in form
        for kind, most in (("reconcile", 30), ("audit", 90)):
            chosen = fields_of(await operator.page(f"/checks/{kind}")) | {"days": str(most + 1), "what": "look"}
            assert (await operator.post(f"/checks/{kind}", chosen)).status == 400


class WithABug(AskedChecks):
    """Its first looks fail as no error of this project does."""

    has_bug = True

    async def turn(self) -> None:
        if self.has_bug:
            raise KeyError("a bug")
        await super().turn()


async def test_a_bug_does_not_end_the_checks_that_are_asked_for_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_checks, "LOOK_S", 0.02)
    rig.desk.stripe.add_events(*events(2))
    await rig.asked(RECONCILE)
    checks = WithABug(rig.checks.settings, Config(), settle_s=0.0)
    working = asyncio.create_task(checks.run())

    async def is_named() -> bool:
        return "KeyError" in checks.note()

    await eventually(is_named, "/readyz names it")
    checks.has_bug = False

    async def is_done() -> bool:
        return (await rig.found()).status == "done"

    await eventually(is_done, "the next look takes the job")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


def test_days_cover_the_window_of_the_look() -> None:
    now = utc_now()
    assert AskedCheck(3).days_again(now - timedelta(hours=5), now) == 4
    assert AskedCheck(3).days_again(now, now) == 3
    assert AskedCheck().days_again(now, now) is None
    assert timedelta(days=MOST_DAYS[RECONCILE]) == timedelta(days=MOST_DAYS[RECONCILE_DRY]) == KEPT


def test_the_window_of_a_job_does_not_move_while_it_waits() -> None:
    asked_at = utc_now() - timedelta(hours=3)
    assert AskedCheck.of_filter({"days": 2}).since(asked_at) == asked_at - timedelta(days=2)
    assert AskedCheck.of_filter({}).since(asked_at) is None
