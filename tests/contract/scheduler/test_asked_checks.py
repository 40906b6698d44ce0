"""Checks asked for in the console: the scheduler does each once, in the name of who asked, or says why not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
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
from sinks.postgres import owned_job
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import ConsoleActions, Job, Performed
from sinks.stripe_api.listing import Lists
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


async def _begun(rig: Rig, is_so: Callable[[Performed], bool], why: str) -> asyncio.Task[None]:
    """Lets the scheduler work until the job's row is so."""
    working = asyncio.create_task(rig.checks.turn())

    async def has() -> bool:
        return is_so(await rig.found())

    await eventually(has, why)
    return working


async def _stopped(rig: Rig, working: asyncio.Task[None]) -> Performed:
    assert await rig.records.want(FORM, "stop", AuditEntry(who="sam", role="operator", action="console.job.stop"))
    await asyncio.wait_for(working, 60)
    job = await rig.found()
    assert job.status == "stopped"
    return job


async def test_what_was_appended_counts_after_a_stop_and_after_a_restart(rig: Rig, database: SecretStr) -> None:
    """A scheduler that ends in the middle, one that goes on until a stop, and each event counted once."""
    rig.desk.stripe.add_events(*events(40))
    await rig.asked(RECONCILE)
    rig.desk.stripe.hang_at = 3
    first = await _begun(rig, lambda job: job.result.get("fed", 0) > 0, "a slice was appended")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    appended = len(await rig.desk.ids())
    assert 0 < appended < 40
    await ask(database, "UPDATE billing.console_actions SET seen_at = now() - interval '31 s' RETURNING 1")
    rig.desk.stripe.hang_at = len(rig.desk.stripe.requests) + 4
    job = await _stopped(rig, await _begun(rig, lambda job: job.result["fed"] > appended, "one more slice"))
    appended = len(await rig.desk.ids())
    assert (job.result["fed"], appended < 40) == (appended, True)
    assert sorted((await rig.logged()).split(",")) == ["done -1", f"done {appended}"]


async def test_accounts_that_are_complete_are_not_read_again_after_a_restart(
    rig: Rig, database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_checks, "NOTED_S", 0.0)
    rig.desk.stripe.accounts = ["acct_1"]
    rig.desk.stripe.add_events(*events(3))
    rig.desk.stripe.add_events(*events(2, first=10), account="acct_1")
    await rig.asked(RECONCILE, all_accounts=True)

    def is_second(job: Performed) -> bool:
        return any(one["account"] == "acct_1" for one in job.result.get("accounts", ()))

    rig.desk.stripe.hang_at = 7  # after the list of accounts and five slices of the own account
    first = await _begun(rig, is_second, "the second account was begun")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    before = len(rig.desk.stripe.requests)
    rig.desk.stripe.hang_at = None
    await ask(database, "UPDATE billing.console_actions SET seen_at = now() - interval '31 s' RETURNING 1")
    await rig.checks.turn()
    job = await rig.found()
    assert (job.status, job.result["fed"]) == ("done", 5)
    assert {(account, path) for account, path, _ in rig.desk.stripe.requests[before:]} == {
        ("", "/v1/accounts"),
        ("acct_1", "/v1/events"),
    }


async def test_an_outage_of_stripe_is_waited_for_but_not_without_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Timetable(first=timedelta(seconds=0.01), factor=2, tries=2)
    defaults = Lists.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timetable", quick)
    monkeypatch.setattr(asked_checks, "AGAIN_S", 0.01)
    rig.desk.stripe.add_events(*events(3))
    rig.desk.stripe.faults.extend(["drop"] * 8)
    await rig.asked(RECONCILE)
    await rig.checks.turn()
    assert (await rig.found()).status == "done"
    monkeypatch.setattr(asked_checks, "OUTAGE_S", 0.3)
    rig.desk.stripe.faults.extend(["drop"] * 1000)
    entry = AuditEntry(who="sam", role="operator", action=f"console.{RECONCILE}")
    await rig.records.begin(f"{FORM}-next", entry, job=Job(None, None))
    await rig.checks.turn()
    job = await rig.records.find(f"{FORM}-next")
    assert job is not None
    assert job.status == "failed"
    assert (job.note or "").startswith("own account: NoAnswer")


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
    await _stopped(rig, working)
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
