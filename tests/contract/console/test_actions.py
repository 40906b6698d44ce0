"""Actions: a preview with the live count, once per form, a result, and a row of the audit log."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from console import actions
from console.pages import dead
from eventlog.append import EventAppender
from schemas.console_settings import Role
from schemas.errors import LogUnavailable
from schemas.state import Timer
from schemas.timer import timer_event
from schemas.timing import utc_now
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.brakes import Brakes
from sinks.postgres.rows import Flush
from sinks.postgres.store import Store
from sinks.postgres.timer_changes import TimerChanges
from streams.process import Processor
from tests.kits.consolekit import Browser, ended, fields_of, serving
from tests.kits.notes import notes
from tests.kits.replaykit import ReplayKit
from tests.kits.storekit import ask, email_row, known, ledger_row, write
from tests.waiting import eventually


def _mended(processor: Processor) -> Processor:
    rule = notes.rules["note.written"]

    def decide(event: Any, known: Any) -> Any:
        return rule.decide(replace(event, object=event.object.model_copy(update={"trouble": ""})), known)

    return replace(processor, rules={"note.written": replace(rule, decide=decide)}, code_version="2")


async def test_the_drill_from_a_bad_deploy_to_no_dead_letter(rig: ReplayKit) -> None:
    """300 events die of one cause, the fix is deployed, and the replay, paused and continued, applies each."""
    for at in range(300):
        rig.send(f"evt_{at:03}", user=f"u{at % 7}", trouble="bug")
    await rig.consume()
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        assert "300 dead letters in 1 group" in await operator.page("/")
        (group,) = (await operator.json("/dead"))["groups"]
        assert (group["letters"], group["error_class"]) == (300, "Unforeseen")
        viewer = await anyone.signed_in(Role.VIEWER)
        for person in (viewer, operator):
            assert "Traceback (most recent call last)" not in await person.page(f"/dead/letters/{group['sample']}")
        await operator.post("/reveal", {"page": f"/dead/letters/{group['sample']}"})
        assert "Traceback (most recent call last)" in await operator.page(f"/dead/letters/{group['sample']}")

        rehearsed = (await operator.json("/dead/rehearsal"))["rehearsal"]
        assert sum(rehearsed["outcomes"].values()) == 300
        form = fields_of(await operator.page("/dead/replay"))
        assert form["count"] == "300"
        assert (await operator.post("/dead/replay", form)).status == 400  # the number is not typed
        assert (await operator.get("/dead/replay?status=discarded")).status == 400  # a replay takes open letters only
        form |= {"typed": "300", "per_second": "100", "reason": "fixed in 2"}
        path = (await operator.post("/dead/replay", form)).headers["Location"]
        assert (await operator.post("/dead/replay", form)).headers["Location"] == path  # a double click
        assert (await operator.post(path, {"wanted": "pause"})).status == 303

        async def is_paused() -> bool:
            return bool((await operator.json(path))["job"]["status"] == "paused")

        await eventually(is_paused, "the pause")
        assert (await operator.post(path, {"wanted": "run"})).status == 303
        job = await ended(operator, path)
        assert (job["status"], job["done"], job["result"]["replayed"]) == ("done", 300, 300)
        verdicts = await rig.consume(_mended(rig.processor))
        assert len(verdicts) == 300
        assert {str(type(verdict).__name__) for verdict in verdicts.values()} == {"Applied"}
        page = await operator.json(path)
        assert page["outcome"] == {"resolved": 300, "dead_again": 0, "pending": 0}
        assert "dead letter" not in (await operator.page("/")).partition("<dl")[0].partition("<main")[2]
    logged = await rig.rows("SELECT outcome, count, who, reason FROM billing.audit_log WHERE action LIKE '%replay%'")
    assert [
        (row["outcome"], row["count"], row["who"]) for row in logged if "console" in row["who"] or row["count"]
    ] == [("done", 300, "operator (link)")]


async def test_a_stopped_replay_leaves_the_rest_open_and_another_process_continues_one(rig: ReplayKit) -> None:
    for at in range(40):
        rig.send(f"evt_{at:03}", trouble="rule")
    await rig.consume()
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        form = fields_of(await operator.page("/dead/replay")) | {"per_second": "5"}
        path = (await operator.post("/dead/replay", form)).headers["Location"]

        async def has_begun() -> bool:
            return bool((await operator.json(path))["job"]["done"] >= 5)

        await eventually(has_begun, "the first letters")
        await operator.post(path, {"wanted": "stop"})
        job = await ended(operator, path)
        assert job["status"] == "stopped"
        assert 5 <= job["done"] < 40
        left = 40 - job["done"]
        form = fields_of(await operator.page("/dead/replay")) | {"per_second": "5"}
        assert form["count"] == str(left)
        path = (await operator.post("/dead/replay", form)).headers["Location"]
        await eventually(has_begun, "the first letters")
    # The process has ended in the middle. Another one finds the job lost after a while, which is moved up here.
    await rig.rows("UPDATE billing.console_actions SET seen_at = now() - interval '1 hour' RETURNING 1")
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        await anyone.console.jobs.resume()
        job = await ended(operator, path)
        assert (job["status"], job["result"]["replayed"]) == ("done", left)
    assert len(await asyncio.to_thread(rig.records)) == 80  # each was appended once


async def test_discard_needs_a_reason_and_happens_once(rig: ReplayKit) -> None:
    for at in range(3):
        rig.send(f"evt_{at}", trouble="rule")
    await rig.consume()
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        form = fields_of(await operator.page("/dead/discard?id=evt_0,evt_1"))
        assert form["count"] == "2"
        assert (await operator.post("/dead/discard", form)).status == 400
        form["reason"] = "test data"
        paths = {(await operator.post("/dead/discard", form)).headers["Location"] for _ in range(2)}
        (path,) = paths
        job = (await operator.json(path))["job"]
        assert (job["status"], job["result"]["changed"], job["result"]["skipped"]) == ("done", 2, 0)
    assert await rig.statuses() == {"evt_0": ["discarded"], "evt_1": ["discarded"], "evt_2": ["open"]}


async def test_the_brake_is_released_once(anyone: Browser, database: SecretStr) -> None:
    await Brakes(database).trip("billing.worker", "50 events in a row died", ["MalformedEvent: x"], "1")
    viewer, operator = await anyone.signed_in(Role.VIEWER), await anyone.signed_in(Role.OPERATOR)
    assert "The brake holds billing.worker" in await viewer.page("/")
    assert "Release" not in await viewer.page("/lag")
    form = fields_of(await operator.page("/brake/release?group=billing.worker")) | {"let_die": "7", "reason": "known"}
    path = (await operator.post("/brake/release", form)).headers["Location"]
    assert (await operator.json(path))["job"]["result"] == {"changed": 1, "released": True, "let_die": 7}
    assert (await operator.get("/brake/release?group=billing.worker")).status == 404
    assert await ask(database, "SELECT let_die FROM billing.brakes") == 7


async def test_a_failed_mail_is_queued_again(anyone: Browser, store: Store, database: SecretStr) -> None:
    mails = [email_row(f"m{at}", recipient="jane@example.com") for at in range(2)]
    await write(store, Flush(ledger=[ledger_row("evt_1")], known=known(), outbox=[*mails]))
    await ask(database, "UPDATE billing.emails SET status = 'failed', last_error = '550 no' RETURNING 1")
    support = await anyone.signed_in(Role.SUPPORT)
    key = dict(re.findall(r'name="(key)" value="([^"]+)"', await support.page("/mails/m0")))["key"]
    path = (await support.post("/mails/m0/resend", {"key": key})).headers["Location"]
    assert (await support.json(path))["job"]["result"]["changed"] == 1
    assert (
        await ask(database, "SELECT string_agg(status, ' ' ORDER BY email_key) FROM billing.emails") == "queued failed"
    )
    assert (await support.get("/outboxes/emails/requeue")).status == 403
    operator = await anyone.signed_in(Role.OPERATOR)
    form = fields_of(await operator.page("/outboxes/emails/requeue"))
    await operator.post("/outboxes/emails/requeue", form)
    assert await ask(database, "SELECT count(*) FROM billing.emails WHERE status = 'queued'") == 2


async def test_exactly_what_the_form_counted_is_queued_again(
    anyone: Browser, store: Store, database: SecretStr
) -> None:
    """The number is typed above 100; younger failures and erased rows are left alone."""
    now = utc_now() - timedelta(hours=1)
    mails = [email_row(f"m{at:03}", queued_at=now, recipient="jane@example.com") for at in range(153)]
    await write(store, Flush(ledger=[ledger_row("evt_1")], known=known(), outbox=[*mails]))
    await ask(database, "UPDATE billing.emails SET status = 'failed', last_error = '550 no' RETURNING 1")
    await ask(database, "UPDATE billing.emails SET last_error = 'erased' WHERE email_key = 'm000' RETURNING 1")
    operator = await anyone.signed_in(Role.OPERATOR)
    form = fields_of(await operator.page("/outboxes/emails/requeue"))
    assert form["count"] == "152"
    assert (await operator.post("/outboxes/emails/requeue", form)).status == 400
    for wrong in ({"key": ""}, {"key": "../../sign-out"}, {"seen_at": ""}, {"count": "many"}):
        assert (await operator.post("/outboxes/emails/requeue", form | {"typed": "152"} | wrong)).status == 400
    await ask(
        database,
        "UPDATE billing.emails SET queued_at = now() + interval '1 h' WHERE email_key IN ('m001', 'm002') RETURNING 1",
    )
    path = (await operator.post("/outboxes/emails/requeue", form | {"typed": "152"})).headers["Location"]
    result = (await operator.json(path))["job"]["result"]
    assert (result["changed"], result["skipped"]) == (150, 2)
    left = "SELECT string_agg(email_key, ' ' ORDER BY email_key) FROM billing.emails WHERE status = 'failed'"
    assert await ask(database, left) == "m000 m001 m002"


async def test_a_timer_that_is_fired_early_is_the_event_of_its_time(rig: ReplayKit) -> None:
    """Its row keeps its time, so the rule finds it due, a rebuild does the same, and a second append is dropped."""
    due = utc_now() + timedelta(days=3)
    await _start_timer(rig, "win-back", due)
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        assert "/timers/fire?timer=win-back" in await operator.page("/timers")
        form = fields_of(await operator.page("/timers/fire?timer=win-back::x_1")) | {"reason": "they asked"}
        late = form | {"seen_due": (due - timedelta(days=1)).isoformat(), "key": "k" * 20}
        done = (await operator.post("/timers/fire", late)).headers["Location"]
        assert (await operator.json(done))["job"]["result"] == {"changed": 0, "skipped": 1}
        done = (await operator.post("/timers/fire", form)).headers["Location"]
        assert (await operator.json(done))["job"]["result"] == {"changed": 1, "skipped": 0}
        assert (await operator.get("/timers/fire?timer=win-back::x_1")).status == 404
        again = form | {"key": "l" * 20}
        done = (await operator.post("/timers/fire", again)).headers["Location"]
        assert (await operator.json(done))["job"]["result"] == {"changed": 0, "skipped": 1}
    (record,) = await asyncio.to_thread(rig.records)
    timer = Timer(
        timer_key="win-back::x_1", account="", customer_id="cus_1", kind="win-back", subject="x_1", due_at=due
    )
    assert orjson.loads(record.value or b"") == timer_event(timer)
    assert await rig.rows("SELECT status, due_at FROM billing.timers") == [{"status": "fired", "due_at": due}]
    (logged,) = await rig.rows("SELECT target, count FROM billing.audit_log WHERE action = 'console.timer.fire'")
    assert logged == {"target": "win-back::x_1", "count": 1}


@pytest.mark.parametrize("kind", ["access-ends", "erase", "unknown"])
async def test_a_timer_that_acts_only_at_its_time_is_not_fired(rig: ReplayKit, kind: str) -> None:
    due = utc_now() + timedelta(days=3)
    await _start_timer(rig, kind, due)
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        assert "/timers/fire" not in await operator.page("/timers")
        assert (await operator.get(f"/timers/fire?timer={kind}::x_1")).status == 400
        form = {"timer": f"{kind}::x_1", "seen_due": due.isoformat(), "key": "k" * 20}
        done = (await operator.post("/timers/fire", form)).headers["Location"]
        assert (await operator.json(done))["job"]["result"] == {"changed": 0, "skipped": 1}
    assert await asyncio.to_thread(rig.records) == []
    assert await rig.rows("SELECT status, due_at FROM billing.timers") == [{"status": "pending", "due_at": due}]


async def test_the_timer_of_a_waiting_event_is_left_to_the_scheduler(rig: ReplayKit) -> None:
    await _start_timer(rig, "retry", utc_now() + timedelta(days=3))
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        form = fields_of(await operator.page("/timers/fire?timer=retry::x_1"))
        done = (await operator.post("/timers/fire", form)).headers["Location"]
        assert (await operator.json(done))["job"]["result"] == {"changed": 1, "skipped": 0}
    assert await asyncio.to_thread(rig.records) == []
    (found,) = await rig.rows("SELECT status, due_at <= now() AS is_due FROM billing.timers")
    assert found == {"status": "pending", "is_due": True}


async def test_an_early_timer_is_recorded_before_its_event_is_on_the_log(rig: ReplayKit) -> None:
    due = utc_now() + timedelta(days=3)
    await _start_timer(rig, "win-back", due)
    changes = TimerChanges(rig.settings.database_url, application="test")
    entry = AuditEntry(who="sam", role="operator", action="console.timer.fire", reason="they asked")
    logged = "SELECT outcome, count, reason FROM billing.audit_log"

    async def fails(_timer: Timer) -> None:
        assert await rig.rows(logged) == [{"outcome": "begun", "count": None, "reason": "they asked"}]
        raise LogUnavailable("no broker")

    with pytest.raises(LogUnavailable):
        await changes.fire("win-back::x_1", due, entry, fails)
    assert await rig.rows(logged) == [{"outcome": "failed", "count": 0, "reason": "they asked; no broker"}]
    assert await rig.rows("SELECT status FROM billing.timers") == [{"status": "pending"}]


async def test_an_early_timer_that_fails_leaves_one_row_of_the_audit_log(
    rig: ReplayKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka does not take the event, then does not answer in time."""
    due = utc_now() + timedelta(days=3)
    await _start_timer(rig, "win-back", due)
    logged = (
        "SELECT action, outcome, count, reason FROM billing.audit_log WHERE action LIKE 'console.%fire%' ORDER BY 1"
    )

    async def refuses(_log: EventAppender, _entries: Any) -> None:
        raise LogUnavailable("no broker")

    async def hangs(_log: EventAppender, _entries: Any) -> None:
        await asyncio.Event().wait()

    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        for append, reason in ((refuses, "no broker"), (hangs, "not known whether it was appended: CancelledError()")):
            monkeypatch.setattr(EventAppender, "append", append)
            if append is hangs:
                monkeypatch.setattr(actions, "LONGEST_S", 4.0)
            form = fields_of(await operator.page("/timers/fire?timer=win-back::x_1")) | {"reason": "they asked"}
            done = (await operator.post("/timers/fire", form)).headers["Location"]
            assert (await operator.json(done))["job"]["status"] == "failed"
            assert await rig.rows(logged) == [
                {"action": "console.timer.fire", "outcome": "failed", "count": 0, "reason": f"they asked; {reason}"}
            ]
            await rig.rows("DELETE FROM billing.audit_log RETURNING 1")
    assert await rig.rows("SELECT status FROM billing.timers") == [{"status": "pending"}]


async def _start_timer(rig: ReplayKit, kind: str, due: datetime) -> None:
    await rig.rows(
        f"""INSERT INTO billing.timers (timer_key, account, customer_id, kind, subject, due_at, status, event_id)
        VALUES ('{kind}::x_1', '', 'cus_1', '{kind}', 'x_1', '{due.isoformat()}', 'pending', 'evt_1') RETURNING 1"""
    )


async def test_a_discard_takes_and_shows_no_more_than_one_statement_does(
    rig: ReplayKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "MOST_AT_ONCE", 2)
    for at in range(3):
        rig.send(f"evt_{at}", trouble="rule")
    await rig.consume()
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        page = await operator.page("/dead/discard")
        form = fields_of(page) | {"reason": "test data"}
        assert form["count"] == "2"
        assert "1 more match the filter" in page
        assert fields_of(await operator.page("/dead/replay"))["count"] == "3"
        path = (await operator.post("/dead/discard", form)).headers["Location"]
        assert (await operator.json(path))["job"]["result"]["changed"] == 2
    assert sorted(status for (status,) in (await rig.statuses()).values()) == ["discarded", "discarded", "open"]
