"""Replay of dead letters and stored events: the original bytes, in order, once, and never lost on a crash."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr

from eventlog import client
from eventlog.append import EventAppender
from eventlog.lookup import RecordLookup
from recovery.replay.events import EventReplay, From, Replayed, failed_filter
from recovery.replay.letters import LetterReplay, replay_letters
from scheduler.retry_failed import RetryFailed
from schemas.errors import LogUnavailable
from schemas.rate import RateLimit
from schemas.record import decode_headers
from schemas.settings import Settings
from schemas.verdict import Applied
from sinks.postgres.dead_letter_index import DeadLetterIndex, LetterFilter, ReplayUnderWay
from streams.process import Processor
from tests.kits.notes import note_body, notes
from tests.kits.replaykit import OPEN, ReplayKit, open_kit
from tests.kits.stripekit import TEST_KEY


@pytest.fixture
async def rig(kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    (tmp_path / "config.toml").write_text("")
    settings = {"config_path": tmp_path / "config.toml", "state_dir": tmp_path}
    async with open_kit(kafka_bootstrap, migrated_url, topic_prefix, settings) as made:
        yield made


def mended(processor: Processor) -> Processor:
    """The rules after a fix: notes with the trouble `rule` or `bug` are accepted."""
    rule = notes.rules["note.written"]

    def decide(event: Any, known: Any) -> Any:
        return rule.decide(replace(event, object=event.object.model_copy(update={"trouble": ""})), known)

    return replace(processor, rules={"note.written": replace(rule, decide=decide)}, code_version="2")


async def test_a_replayed_letter_is_the_original_record_marked_as_a_replay(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule", headers=(("trace", b"abc"),))
    (original,) = rig.records()
    await rig.consume()
    (letter,) = await rig.find()

    report = await rig.replay()

    assert report.replayed == 1
    again = rig.records()[1]
    assert (again.key, again.value, again.partition) == (original.key, original.value, original.partition)
    place = f"{rig.settings.dead_topic}/{letter.dead_partition}/{letter.dead_offset}"
    assert again.headers == original.headers | {"source": "replay", "replay_of": place}
    assert len(again.raw_headers) == len(again.headers), "no header twice"
    (letter,) = await rig.find()
    assert (letter.status, letter.closed_by) == ("replayed", "tester")


async def test_after_the_fix_a_replay_applies_each_once_in_order_and_closes_its_letters(rig: ReplayKit) -> None:
    for n in range(30):
        rig.send(f"evt_{n:02}", f"u{n % 3}", trouble="rule" if n % 2 else "")
    await rig.consume()
    assert (await rig.replay()).replayed == 15
    await rig.consume(mended(rig.processor))
    assert (await rig.replay()).replayed == 0

    trails = await rig.trails()
    for user in range(3):
        ids = [f"evt_{n:02}" for n in range(user, 30, 3)]
        assert trails[f"u{user}"].split(",") == ids[user % 2 == 1 :: 2] + ids[user % 2 == 0 :: 2]
    assert {status for found in (await rig.statuses()).values() for status in found} == {"resolved"}
    assert await rig.rows("SELECT 1 FROM billing.events WHERE outcome <> 'applied'") == []


async def test_an_event_that_dies_again_gets_a_new_letter_that_names_the_old_one(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    await rig.replay()
    await rig.consume()

    first, second = await rig.find()
    assert (first.status, second.status) == ("replayed", "open")
    assert second.replay_of == f"{rig.settings.dead_topic}/{first.dead_partition}/{first.dead_offset}"

    await rig.replay()
    await rig.consume(mended(rig.processor))
    assert await rig.statuses() == {"evt_1": ["resolved", "resolved"]}
    third = rig.records()[2]
    assert list(decode_headers(third.raw_headers)).count("replay_of") == 1


async def test_the_order_holds_though_some_have_been_replayed_before(rig: ReplayKit) -> None:
    """Letters are ordered by the first failure in their partition, however late they failed last."""
    rig.send("evt_a", trouble="rule")
    rig.send("evt_b", trouble="rule")
    await rig.consume()
    await rig.replay(LetterFilter(ids=("evt_a",), statuses=("open",)))
    await rig.consume()
    await rig.replay()
    await rig.consume(mended(rig.processor))
    assert await rig.trails() == {"u1": "evt_a,evt_b"}


async def test_killed_before_the_append_nothing_is_lost_and_it_shows(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    async with rig.letters() as letters:
        await letters.begin(await letters.find(OPEN))  # then the process dies

    report = await rig.replay()
    assert (report.replayed, report.resumed) == (1, 1)
    assert (await rig.consume(mended(rig.processor)))["evt_1"] == Applied()


async def test_killed_between_append_and_mark_the_second_copy_is_dropped_and_it_shows(rig: ReplayKit) -> None:
    class DiesBeforeTheMark(DeadLetterIndex):
        async def mark_replayed(self, *_: object) -> None:
            raise KeyboardInterrupt

    rig.send("evt_1", trouble="rule")
    await rig.consume()
    with pytest.raises(KeyboardInterrupt):
        async with DiesBeforeTheMark.open(rig.settings.database_url) as letters:
            await replay_letters(rig.settings, letters, await letters.find(OPEN), RateLimit(None), "tester")
    assert await rig.statuses() == {"evt_1": ["open"]}

    report = await rig.replay()
    assert (report.replayed, report.resumed) == (1, 1)
    await rig.consume(mended(rig.processor))
    assert await rig.trails() == {"u1": "evt_1"}
    assert await rig.statuses() == {"evt_1": ["resolved"]}
    assert len(rig.records()) == 3


async def test_the_worker_result_wins_over_a_later_replayed_mark(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    async with rig.letters() as letters:
        found = await letters.find(OPEN)
        rig.send("evt_1", trouble="rule")
        await rig.consume(mended(rig.processor))
        await letters.mark_replayed(found, "tester")
    assert await rig.statuses() == {"evt_1": ["resolved"]}


async def test_a_letter_whose_event_is_settled_is_closed_and_not_appended(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    await rig.rows("UPDATE billing.events SET outcome = 'applied'")
    report = await rig.replay()
    assert (report.replayed, report.settled) == (0, 1)
    assert await rig.statuses() == {"evt_1": ["resolved"]}
    assert len(rig.records()) == 1


async def test_two_replays_do_not_run_at_once(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    async with rig.letters() as letters, letters.replaying():
        with pytest.raises(ReplayUnderWay):
            await rig.replay()
    assert (await rig.replay()).replayed == 1


async def test_letters_that_kafka_does_not_accept_stay_open(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    narrow = NewTopic(f"{rig.settings.topic_prefix}.narrow", 1, 1, config={"max.message.bytes": "10"})
    admin = client.admin(rig.settings.kafka)
    for creation in admin.create_topics([narrow]).values():
        creation.result(timeout=30)
    nowhere = EventAppender(rig.settings.kafka, narrow.topic, client_id="test")
    try:
        with RecordLookup(rig.settings.kafka, rig.settings.dead_topic) as topic:
            async with rig.letters() as letters:
                work = LetterReplay(letters=letters, dead_topic=topic, event_log=nowhere, by="tester")
                with pytest.raises(LogUnavailable):
                    await work.run(await letters.find(OPEN), RateLimit(None))
    finally:
        nowhere.close()
    assert await rig.statuses() == {"evt_1": ["open"]}


async def test_a_letter_the_topic_has_dropped_comes_from_the_ledger_or_is_named(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    rig.send("evt_2", trouble="rule")
    await rig.consume()
    admin = client.admin(rig.settings.kafka)
    ends = [TopicPartition(rig.settings.dead_topic, letter.dead_partition or 0, -1) for letter in await rig.find()]
    for done in admin.delete_records(ends[:1]).values():
        done.result(timeout=30)
    await rig.rows("UPDATE billing.events SET payload = NULL WHERE event_id = 'evt_2'")

    report = await rig.replay()

    assert (report.from_ledger, report.gone) == (["evt_1"], ["evt_2"])
    assert (await rig.statuses()) == {"evt_1": ["replayed"], "evt_2": ["open"]}
    first, _, again = rig.records()
    assert (again.key, orjson.loads(again.value or b"")) == (first.key, orjson.loads(first.value or b""))
    assert again.headers["source"] == "replay"


async def test_an_erased_event_is_never_replayed(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    await rig.rows("UPDATE billing.dead_letters SET message = 'erased', status = 'discarded'")
    assert await rig.find(LetterFilter(ids=("evt_1",))) == []


async def test_the_rate_is_kept(rig: ReplayKit) -> None:
    """The first second's worth is appended at once; each further event waits for its share of a second."""
    for n in range(10):
        rig.send(f"evt_{n}", trouble="rule")
    await rig.consume()
    started = time.monotonic()
    assert (await rig.replay(rate=5)).replayed == 10
    assert time.monotonic() - started >= 1.0


async def test_failed_selects_letters_that_first_failed_within_a_day(rig: ReplayKit) -> None:
    """Letters that fail for longer are left alone, however often the schedule runs."""
    for n in range(3):
        rig.send(f"evt_{n}", trouble="rule")
    await rig.consume()
    await rig.replay(LetterFilter(ids=("evt_1",)))
    await rig.consume()
    long_ago = "UPDATE billing.dead_letters SET first_failed_at = now() - interval '25 hours' WHERE status = 'replayed'"
    await rig.rows(long_ago)
    found = await rig.find(failed_filter(datetime.now(UTC)))
    assert sorted(letter.event_id or "" for letter in found) == ["evt_0", "evt_2"]


async def _run(settings: Settings, letters: DeadLetterIndex, names: list[str]) -> Replayed:
    return await EventReplay(settings, letters, From.AUTO, "", "tester").run(names, RateLimit(None), dry_run=False)


async def test_any_event_is_replayed_from_where_it_is_stored(rig: ReplayKit) -> None:
    rig.send("evt_applied")
    rig.send("evt_dead", trouble="rule")
    rig.send("evt_waiting")
    rig.send("evt_kept_nowhere")
    await rig.consume()
    rig.send("evt_on_its_way")
    await rig.rows(
        "UPDATE billing.events SET outcome = 'waiting' WHERE event_id IN ('evt_waiting', 'evt_kept_nowhere')"
    )
    await rig.rows("UPDATE billing.events SET payload = NULL WHERE event_id = 'evt_kept_nowhere'")
    names = ["evt_applied", "evt_dead", "evt_waiting", "evt_kept_nowhere", "evt_on_its_way", "evt_unknown"]

    async with rig.letters() as letters:
        report = await EventReplay(rig.settings, letters, From.AUTO, "", "tester").run(
            names, RateLimit(None), dry_run=False
        )

    assert report.settled == {"evt_applied": "applied"}
    assert report.replayed == {
        "evt_dead": "dead letter",
        "evt_waiting": "ledger",
        "evt_kept_nowhere": "log",
        "evt_on_its_way": "log",
    }
    assert list(report.missing) == ["evt_unknown"]
    again = [record for record in rig.records() if record.headers["source"] == "replay"]
    assert sorted(record.headers["event_id"] for record in again) == sorted(report.replayed)
    assert {record.key for record in again} == {b"cus_u1"}


async def test_the_schedule_replays_what_failed(rig: ReplayKit) -> None:
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    schedule = RetryFailed(rig.settings)
    await schedule.turn()
    assert schedule.note().startswith("1 replayed")
    await schedule.turn()
    assert schedule.note().startswith("0 replayed")
    (letter,) = await rig.find()
    assert (letter.status, letter.closed_by) == ("replayed", "schedule")


async def test_an_event_stored_nowhere_is_fetched_from_stripe_in_the_mode_of_the_key(rig: ReplayKit) -> None:
    """A Stripe on loopback that has two events, one of them in live mode."""
    known = {
        name: orjson.loads(note_body(name)) | {"livemode": live} for name, live in (("evt_t", False), ("evt_l", True))
    }

    async def event(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {TEST_KEY}"
        found = known.get(request.match_info["id"])
        if found is None:
            return web.json_response(
                {"error": {"type": "invalid_request_error", "message": "No such event"}}, status=404
            )
        return web.json_response(found)

    app = web.Application()
    app.router.add_get("/v1/events/{id}", event)
    async with TestServer(app) as stripe:
        keyed = {"stripe_api_key": SecretStr(TEST_KEY), "stripe_api_base": f"http://127.0.0.1:{stripe.port}"}
        settings = rig.settings.model_copy(update=keyed)
        async with rig.letters() as letters:
            names = ["evt_t", "evt_l", "evt_none"]
            report = await EventReplay(settings, letters, From.AUTO, "", "tester").run(
                names, RateLimit(None), dry_run=False
            )

    assert report.replayed == {"evt_t": "stripe"}
    assert "is in test mode, the event is not" in report.missing["evt_l"]
    assert "keeps events for 30 days" in report.missing["evt_none"]
    assert (await rig.consume()) == {"evt_t": Applied()}
