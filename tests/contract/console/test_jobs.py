"""Jobs end, whatever happens to their letters, their process and their store; only one run works on each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from console import actions, jobs
from console.identity import Person
from schemas.console_settings import Role
from schemas.errors import StoreUnavailable
from schemas.timing import utc_now
from sinks.postgres import owned_job
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.backfill import BACKFILLS, run_backfills
from sinks.postgres.console_actions import ConsoleActions, Job, JobLost
from sinks.postgres.dead_letter_index import DeadLetterIndex, LetterFilter
from sinks.postgres.pool import connect
from tests.kits.consolekit import Browser, ended, fields_of, serving
from tests.kits.replaykit import ReplayKit
from tests.kits.storekit import ask
from tests.waiting import eventually

KEY = "a-key-of-a-form-1"
ENTRY = AuditEntry(who="sam", role="operator", action="console.replay dead letters")


async def test_a_replay_passes_letters_whose_bytes_are_gone(rig: ReplayKit) -> None:
    """They are more than a job finds at once, some have no event id, and letters before and after them are replayed."""
    for at in range(3):
        rig.send(f"evt_{at}", trouble="rule")
    await rig.consume()
    await rig.rows(
        """INSERT INTO billing.dead_letters (consumer_group, topic, partition, "offset", event_id, type, error_class,
               stage, message, first_failed_at, last_failed_at, code_version, attempts)
        SELECT 'g', CASE WHEN n % 2 = 0 THEN 'aaa' ELSE 'zzz' END, 0, n, CASE WHEN n % 3 = 0 THEN 'evt_gone_' || n END,
               'note.written', 'X', 'rules', 'gone', now(), now(), '1', 1 FROM generate_series(1, 1300) n RETURNING 1"""
    )
    async with serving(rig.settings) as anyone:
        operator = await anyone.signed_in(Role.OPERATOR)
        form = fields_of(await operator.page("/dead/replay")) | {"typed": "1303", "per_second": "10000"}
        job = await ended(operator, (await operator.post("/dead/replay", form)).headers["Location"])
        assert (job["status"], job["done"]) == ("done", 1303)
        assert (job["result"]["replayed"], job["result"]["gone"]) == (3, 1300)
    assert await rig.rows("SELECT status, count(*) AS n FROM billing.dead_letters GROUP BY 1 ORDER BY 1") == [
        {"status": "open", "n": 1300},
        {"status": "replayed", "n": 3},
    ]


async def test_an_outage_does_not_take_back_what_was_counted(rig: ReplayKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is replayed, and Postgres does not take its counts: the run keeps them."""
    for at in range(3):
        rig.send(f"evt_{at}", trouble="rule")
    await rig.consume()
    monkeypatch.setattr(owned_job, "RETRY_S", 0.01)

    class Flaky(ConsoleActions):
        refusals = 2

        async def advance(
            self, key: str, owner: str, done: int, result: Mapping[str, Any], *, note: str | None = None
        ) -> str:
            if self.refusals:
                self.refusals -= 1
                raise StoreUnavailable("no answer")
            return await super().advance(key, owner, done, result, note=note)

    records = Flaky(rig.settings.database_url)
    entry = replace(ENTRY, filter={"failed_before": utc_now().isoformat(), "per_second": None})
    assert await records.begin(KEY, entry, job=Job("me", 3))
    await jobs.ReplayRun(rig.settings, records, KEY, "me").work()
    found = await records.find(KEY)
    assert found is not None
    assert (found.status, found.result["replayed"], found.result["letters"]) == ("done", 3, 3)


async def test_a_hundred_thousand_letters_are_discarded_in_one_statement(database: SecretStr) -> None:
    await ask(
        database,
        """WITH made AS (INSERT INTO billing.dead_letters (consumer_group, topic, partition, "offset", event_id, type,
               error_class, stage, message, first_failed_at, last_failed_at, code_version, attempts)
        SELECT 'g', 't', 0, n, 'evt_' || n, 'note.written', 'X', 'rules', 'x', now(), now(), '1', 1
        FROM generate_series(1, 40000) n RETURNING 1) SELECT count(*) FROM made""",
    )
    ids = tuple(f"evt_{n}" for n in range(1, 40_000))
    async with DeadLetterIndex.open(database) as index:
        assert await index.discard(LetterFilter(ids=ids, limit=35_000), "sam: test", ENTRY) == 35_000
        assert await index.count(LetterFilter(statuses=("open",))) == 5_000
        assert await index.discard(LetterFilter(limit=None), "sam: test", ENTRY) == 5_000


async def test_a_job_has_one_owner_and_ends_once(database: SecretStr) -> None:
    records = ConsoleActions(database)
    assert await records.begin(KEY, ENTRY, job=Job("first", 7))
    assert not await records.begin(KEY, ENTRY, job=Job("second", 7))
    assert not await records.take(KEY, "second"), "its owner was seen lately"
    await ask(database, "UPDATE billing.console_actions SET seen_at = now() - interval '31 s' RETURNING 1")
    await records.beat(KEY, "first")
    assert not await records.take(KEY, "second"), "a heartbeat is a sign of life"
    await ask(database, "UPDATE billing.console_actions SET seen_at = now() - interval '31 s' RETURNING 1")
    assert await records.take(KEY, "second")
    for late in (
        records.advance(KEY, "first", 3, {}),
        records.rest(KEY, "first", "running"),
        records.beat(KEY, "first"),
        records.end_job(KEY, "first", "done", {}, count=3),
    ):
        with pytest.raises(JobLost):
            await late
    await records.end_job(KEY, "second", "stopped", {"replayed": 2}, count=2)
    for again in (records.end_job(KEY, "second", "done", {}, count=9), records.rest(KEY, "second", "running")):
        with pytest.raises(JobLost):
            await again
    found = await records.find(KEY)
    assert found is not None
    assert (found.status, found.done, found.result) == ("stopped", 0, {"replayed": 2})
    logged = "SELECT string_agg(outcome || ' ' || count, ',') FROM billing.audit_log"
    assert await ask(database, logged) == "done 2"


async def test_a_job_that_cannot_be_understood_ends_as_failed(anyone: Browser, database: SecretStr) -> None:
    """An unexpected error ends the job with a note, and no console tries it again."""
    records = anyone.console.actions.records
    await records.begin(KEY, AuditEntry(who="sam", role="operator", action="console.replay dead letters",
                                        filter={"colour": "red"}), job=Job("dead process", 1))  # fmt: skip
    await ask(database, "UPDATE billing.console_actions SET seen_at = now() - interval '1 hour' RETURNING 1")
    await anyone.console.jobs.resume()
    operator = await anyone.signed_in(Role.OPERATOR)
    job = await ended(operator, f"/jobs/{KEY}")
    assert (job["status"], job["note"]) == ("failed", "unexpected: ValueError; the rest is still open")
    await anyone.console.jobs.resume()
    assert anyone.console.jobs.working == 0
    assert await ask(database, "SELECT outcome FROM billing.audit_log WHERE action LIKE '%replay%'") == "failed"


async def test_only_a_job_that_runs_can_be_paused_and_each_wish_is_recorded(
    anyone: Browser, database: SecretStr
) -> None:
    records = anyone.console.actions.records
    await records.begin(KEY, AuditEntry(who="sam", role="operator", action="console.release the brake"))
    operator = await anyone.signed_in(Role.OPERATOR)
    for key in (KEY, "a-key-that-is-not-known"):
        assert (await operator.post(f"/jobs/{key}", {"wanted": "pause"})).status == 400
    assert await ask(database, "SELECT wanted FROM billing.console_actions") == "run"
    await records.begin(f"{KEY}-job", ENTRY, job=Job("another console", 1))
    assert (await operator.post(f"/jobs/{KEY}-job", {"wanted": "stop"})).status == 303
    logged = "SELECT string_agg(who || ' ' || action || ' ' || target, ',') FROM billing.audit_log WHERE target <> ''"
    assert await ask(database, logged) == f"operator (link) console.job.stop {KEY}-job"


async def test_the_result_of_an_action_is_stored_as_soon_as_postgres_takes_it(
    anyone: Browser, database: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "_RETRY_S", 0.05)
    monkeypatch.setattr(actions, "_WAIT_S", 0.05)

    async def work() -> Mapping[str, Any]:
        await _run(database, "ALTER TABLE billing.console_actions RENAME TO away")
        return {"changed": 3}

    person = Person("sam", Role.OPERATOR)
    await anyone.console.actions.perform(KEY, person, "release the brake", work)
    await _run(database, "ALTER TABLE billing.away RENAME TO console_actions")

    async def is_stored() -> bool:
        found = await anyone.console.actions.find(KEY)
        return found is not None and (found.status, found.result) == ("done", {"changed": 3})

    await eventually(is_stored, "the result")


async def test_a_failed_action_is_in_the_audit_log_without_addresses(anyone: Browser, database: SecretStr) -> None:
    async def work() -> Mapping[str, Any]:
        raise StoreUnavailable("no answer for jane@example.com")

    person = Person("sam", Role.OPERATOR)
    await anyone.console.actions.perform(KEY, person, "release the brake", work, target="g", filter={"a": "j@x.org"})
    found = await anyone.console.actions.find(KEY)
    assert found is not None
    assert found.status == "failed"
    rows = "SELECT row_to_json(t)::text FROM (SELECT * FROM billing.{}) t"
    logged, stored = [str(await ask(database, rows.format(name))) for name in ("audit_log", "console_actions")]
    assert '"outcome":"failed"' in logged
    assert "console.release the brake" in logged
    assert "@" not in logged + stored


async def test_an_action_whose_process_died_ends_as_failed(database: SecretStr) -> None:
    """What it did is not known. Jobs are left to the console that takes them over."""
    records = ConsoleActions(database)
    await records.begin(KEY, AuditEntry(who="sam", role="operator", action="console.release the brake"))
    await records.begin(f"{KEY}-job", ENTRY, job=Job("me", 1))
    assert await records.end_lost(timedelta(minutes=1), "not known") == 0
    assert await records.end_lost(timedelta(0), "not known") == 1
    found = await records.find(KEY)
    assert found is not None
    assert (found.status, found.note) == ("failed", "not known")


async def test_addresses_leave_the_records_that_are_stored(database: SecretStr) -> None:
    records = ConsoleActions(database)
    await records.begin(KEY, ENTRY)
    await ask(
        database,
        """UPDATE billing.console_actions SET note = 'no a@example.com', filter = '{"error": "to b@x.org failed"}',
           result = '{"k\\u0022": ["to d@", "c@x.org", 7]}' RETURNING 1""",
    )
    backfill = next(each for each in BACKFILLS if each.name == "0028_actions")
    connection = await connect(database, application="test")
    assert await run_backfills(connection, [replace(backfill, name="again")]) == {"again": 1}
    connection.terminate()
    found = await records.find(KEY)
    assert found is not None
    assert (found.note, found.filter) == ("no …", {"error": "to … failed"})
    assert found.result == {'k"': ["to d@", "…", 7]}


async def _run(database: SecretStr, statement: str) -> None:
    await asyncio.wait_for(ask(database, statement), 30)
