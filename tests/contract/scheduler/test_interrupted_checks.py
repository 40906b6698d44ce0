"""Checks that are stopped, and checks whose scheduler ends: what was appended counts once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from eventlog.append import EventAppender
from eventlog.entry import Entry
from recovery.reconcile import events as reconcile
from recovery.reconcile.runs import ReconcileRun, Runs
from scheduler import asked_checks
from schemas.asked_checks import RECONCILE
from schemas.errors import LogUnavailable, StoreUnavailable
from schemas.timing import Timetable
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import Performed
from tests.kits.checkskit import FORM, Rig, begun, stopped
from tests.kits.reconcilekit import events
from tests.kits.storekit import ask
from tests.waiting import eventually


async def test_what_was_appended_counts_after_a_stop_and_after_a_restart(rig: Rig, database: SecretStr) -> None:
    """A scheduler that ends in the middle, one that goes on until a stop, and each event counted once."""
    rig.desk.stripe.add_events(*events(40))
    await rig.asked(RECONCILE)
    rig.desk.stripe.hang_at = 3
    first = await begun(rig, lambda job: job.result.get("fed", 0) > 0, "a slice was appended")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    appended = len(await rig.desk.ids())
    assert 0 < appended < 40
    await ask(database, "UPDATE billing.console_actions SET seen_at = now() - interval '31 s' RETURNING 1")
    rig.desk.stripe.hang_at = len(rig.desk.stripe.requests) + 4
    job = await stopped(rig, await begun(rig, lambda job: job.result["fed"] > appended, "one more slice"))
    appended = len(await rig.desk.ids())
    assert (job.result["fed"], appended < 40) == (appended, True)
    assert sorted((await rig.logged()).split(",")) == ["done -1", f"done {appended}"]


@pytest.mark.parametrize("is_restart", [False, True], ids=["a stop", "the end of the scheduler"])
async def test_what_is_appended_while_a_check_ends_counts(
    rig: Rig, database: SecretStr, monkeypatch: pytest.MonkeyPatch, is_restart: bool
) -> None:
    """Kafka has the events, and the answer comes after the stop."""
    in_kafka, answered, put = threading.Event(), threading.Event(), EventAppender._append

    def slowly(log: EventAppender, entries: Sequence[Entry]) -> None:
        put(log, entries)
        in_kafka.set()
        assert answered.wait(30)

    monkeypatch.setattr(EventAppender, "_append", slowly)
    rig.desk.stripe.add_events(*events(5))
    await rig.asked(RECONCILE)
    working = asyncio.create_task(rig.checks.turn())
    assert await asyncio.to_thread(in_kafka.wait, 30)
    others = asyncio.all_tasks() - {asyncio.current_task(), working}
    if is_restart:
        working.cancel()
    else:
        await rig.records.want(FORM, "stop", AuditEntry(who="sam", role="operator", action="console.stop a job"))

    async def is_ending() -> bool:
        return any(task.cancelling() for task in others)

    await eventually(is_ending, "the work is cancelled")
    answered.set()
    await asyncio.gather(working, return_exceptions=True)
    appended = len(await rig.desk.ids())
    assert (await rig.found()).result["fed"] == appended > 0
    if is_restart:
        monkeypatch.setattr(EventAppender, "_append", put)
        await ask(database, "UPDATE billing.console_actions SET seen_at = now() - interval '31 s' RETURNING 1")
        await rig.checks.turn()
        job = await rig.found()
        assert (job.status, job.result["fed"], len(await rig.desk.ids())) == ("done", 5, 5)
        assert (job.result["listed"], job.result["missing"]) == (5, 5)


@pytest.mark.parametrize("failing", ["the log", "the database"])
async def test_a_slice_that_is_read_again_counts_once(rig: Rig, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """The log takes nothing, or has the events and the place is not stored. The next try reads the same slice."""
    monkeypatch.setattr(asked_checks, "AGAIN_S", 0.01)
    monkeypatch.setattr(reconcile, "_APPENDING", Timetable(first=timedelta(seconds=0.01), factor=2, tries=1))
    put, advance, failures = EventAppender._append, Runs.advance, [failing]

    def refused(log: EventAppender, entries: Sequence[Entry]) -> None:
        if "the log" in failures:
            failures.clear()
            raise LogUnavailable("no broker")
        put(log, entries)

    async def lost(runs: Runs, run: ReconcileRun, cursor: datetime, until: datetime, counts: Mapping[str, Any]) -> None:
        if "the database" in failures and counts["listed"]:
            failures.clear()
            raise StoreUnavailable("no answer")
        await advance(runs, run, cursor, until, counts)

    monkeypatch.setattr(EventAppender, "_append", refused)
    monkeypatch.setattr(Runs, "advance", lost)
    rig.desk.stripe.add_events(*events(5))
    await rig.asked(RECONCILE)
    await rig.checks.turn()
    job = await rig.found()
    assert failures == []
    assert (job.status, len(await rig.desk.ids())) == ("done", 5)
    assert [job.result[name] for name in ("listed", "missing", "fed")] == [5, 5, 5]


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
    first = await begun(rig, is_second, "the second account was begun")
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
