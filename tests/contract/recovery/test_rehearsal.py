"""K405: a rehearsed replay shows verdicts, changes and mails, writes nothing, and waits for no one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from eventlog.entry import Entry
from local.stripe.builder import StripeEvents
from recovery.rehearsal import rehearse as engine
from recovery.rehearsal.rehearse import Rehearsal, rehearse_entries, rehearse_letters
from recovery.rehearsal.store import RehearsalStore
from schemas.record import Source
from sinks.postgres.rows import Flush
from streams.rules.catalog import RULES
from streams.rules.registry import Rule
from tests.kits.notes import notes
from tests.kits.replaykit import OPEN, ReplayKit, open_kit
from tests.kits.rulekit import CONFIG, NOW, at

MAKE = StripeEvents()


@pytest.fixture
async def rig(kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    (tmp_path / "config.toml").write_text("")
    settings = {"config_path": tmp_path / "config.toml", "state_dir": tmp_path}
    async with open_kit(kafka_bootstrap, migrated_url, topic_prefix, settings) as made:
        yield made


def mended() -> dict[str, Rule]:
    """The rules after a fix: notes with the trouble `bug` are accepted."""
    rule = notes.rules["note.written"]

    def decide(event: Any, known: Any) -> Any:
        if event.object.trouble != "bug":
            return rule.decide(event, known)
        return rule.decide(replace(event, object=event.object.model_copy(update={"trouble": ""})), known)

    return {"note.written": replace(rule, decide=decide)}


async def rehearse_open(rig: ReplayKit, rules: dict[str, Rule]) -> Rehearsal:
    async with rig.letters() as index:
        return await rehearse_letters(rig.settings, CONFIG, rules, index, await index.find(OPEN))


async def stored(rig: ReplayKit) -> dict[str, Any]:
    """A digest of each table that a replay writes."""
    tables = ("events", "users", "emails", "dead_letters", "timers", "positions")
    query = " UNION ALL ".join(
        f"SELECT '{name}' AS name, md5(string_agg(t::text, '' ORDER BY t::text)) AS rows FROM billing.{name} t"
        for name in tables
    )
    return {row["name"]: row["rows"] for row in await rig.rows(query)}


async def test_K405_a_rehearsal_shows_what_a_replay_would_do(rig: ReplayKit) -> None:
    rig.send("evt_mended", "u1", trouble="bug")
    rig.send("evt_again", "u2", trouble="rule")
    rig.send("evt_queued", "u3", trouble="bug")
    rig.send("evt_fine", "u4")
    await rig.consume()
    await rig.rows(
        "INSERT INTO billing.emails (email_key, event_id, template, queued_at, next_attempt_at) "
        "VALUES ('note:evt_queued', 'evt_queued', 'note', now(), now())"
    )
    before = await stored(rig)

    found = await rehearse_open(rig, mended())

    by_id = {event.event_id: event for event in found.events}
    assert {name: event.outcome for name, event in by_id.items()} == {
        "evt_mended": "applied",
        "evt_again": "dead",
        "evt_queued": "applied",
    }
    assert found.outcomes == {"applied": 2, "dead": 1}
    assert found.reasons == {"this note is not allowed": 1}
    assert by_id["evt_mended"].changes == [
        {"table": "users", "key": "u1", "did": "created", "fields": {"user_id": [None, "u1"]}}
    ]
    assert (found.mails, found.people) == ({"note": 1}, 1), "a mail that was queued before is not queued again"
    assert found.tables == {"users": 2}
    assert await stored(rig) == before
    assert (await rehearse_open(rig, dict(notes.rules))).outcomes == {"dead": 3}


async def test_K405_it_neither_waits_for_a_worker_nor_lets_one_wait(rig: ReplayKit) -> None:
    """A worker in the middle of its transaction holds the rows that the rehearsal reads."""
    for n in range(8):
        rig.send(f"evt_{n}", f"u{n}")
        rig.send(f"evt_dead_{n}", f"u{n}", trouble="bug")
    await rig.consume()
    worker = await asyncpg.connect(rig.settings.database_url.get_secret_value())
    try:
        async with worker.transaction():
            await worker.execute("SELECT * FROM billing.users FOR UPDATE")
            await worker.execute("UPDATE billing.events SET reason = 'held'")
            async with asyncio.timeout(60):
                found = await rehearse_open(rig, mended())
    finally:
        await worker.close()
    assert found.outcomes == {"applied": 8}


async def test_K405_a_worker_applies_a_batch_while_a_rehearsal_is_open(
    rig: ReplayKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rehearsal has read rows of the same customers, in a transaction that is still open."""
    for n in range(8):
        rig.send(f"evt_{n}", f"u{n}")
        rig.send(f"evt_dead_{n}", f"u{n}", trouble="bug")
    await rig.consume()
    has_read, may_end, take = asyncio.Event(), asyncio.Event(), RehearsalStore.take

    async def pausing(store: RehearsalStore, flush: Flush) -> None:
        await take(store, flush)
        has_read.set()
        await may_end.wait()

    monkeypatch.setattr(RehearsalStore, "take", pausing)
    rehearsing = asyncio.create_task(rehearse_open(rig, mended()))
    try:
        async with asyncio.timeout(60):
            await has_read.wait()
            held = await rig.rows(
                "SELECT DISTINCT l.mode FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE a.datname = current_database() AND a.application_name = 'billing-rehearsal' "
                "AND l.locktype <> 'virtualxid'"
            )
            assert held == [{"mode": "AccessShareLock"}], "what a SELECT holds; only DDL waits for it"
            for n in range(8):
                rig.send(f"evt_more_{n}", f"u{n}")
            verdicts = await rig.consume()
        assert len(verdicts) == 8
        assert not rehearsing.done()
        applied = "SELECT count(*) AS n FROM billing.events WHERE event_id LIKE 'evt_more_%' AND outcome = 'applied'"
        assert await rig.rows(applied) == [{"n": 8}]
    finally:
        may_end.set()
        found = await rehearsing
    assert found.outcomes == {"applied": 8}


async def test_each_event_is_rehearsed_on_what_the_one_before_it_left(
    rig: ReplayKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_CHUNK", 1)  # each event in a transaction of its own
    trial = MAKE.subscription(start=NOW, status="trialing", trial_end=NOW + 60)
    events = [
        MAKE.event("customer.created", MAKE.customer(), NOW, id_="evt_1"),
        MAKE.event("customer.subscription.created", trial, NOW + 1, id_="evt_2"),
        MAKE.event("customer.subscription.updated", MAKE.subscription(start=NOW), NOW + 2, id_="evt_3"),
        MAKE.event("customer.subscription.updated", MAKE.subscription(start=NOW), NOW + 2, id_="evt_3"),
    ]
    entries = [
        Entry.of(event, orjson.dumps(event), source=Source.REPLAY, received_at=at(NOW), livemode=False)
        for event in events
    ]
    found = await rehearse_entries(rig.settings, CONFIG, RULES, entries)
    assert found.outcomes == {"applied": 3}, "the second delivery is a duplicate"
    (change,) = [one for one in found.events[2].changes if one["table"] == "subscriptions"]
    assert change["fields"]["status"] == ["trialing", "active"]
    assert found.people == 1
    assert await rig.rows("SELECT * FROM billing.subscriptions") == []


async def test_a_letter_whose_copy_is_no_event_is_not_rehearsed(rig: ReplayKit) -> None:
    """Its bytes are gone from the topic, and what the ledger has of it was never an event."""
    for n, payload in enumerate(("{}", '{"id": "evt_1"}', '{"id": 1, "type": "note.written"}', "[]", "null")):
        await rig.rows(
            f"""WITH letter AS (INSERT INTO billing.dead_letters (consumer_group, topic, partition, "offset", event_id,
                stage, error_class, message, first_failed_at, last_failed_at)
            VALUES ('g', 't', 0, {n}, 'evt_{n}', 'decode', 'MalformedEvent', 'm', now(), now()))
            INSERT INTO billing.events (event_id, type, stream, received_at, outcome, partition, "offset", payload)
            VALUES ('evt_{n}', '', '', now(), 'dead', 0, {n}, '{payload}') RETURNING 1"""
        )
    found = await rehearse_open(rig, mended())
    assert (found.outcomes, sorted(found.gone)) == ({}, [f"evt_{n}" for n in range(5)])
