"""`process` on the real store and the real dead-letter topic: each kind of event gets its verdict, once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from schemas.dead_letter import original_headers
from schemas.errors import Conflict, Unsettled
from schemas.mail_settings import Mail
from schemas.record import record_of
from schemas.references import References
from schemas.settings import Config, Mode
from schemas.verdict import Applied, Dead, Duplicate, Ignored, Stale
from sinks.postgres.brakes import Brakes
from streams.brake import Brake, BrakeTripped, Limits
from streams.item import Attempt
from tests.kits.notes import note_body, note_headers, notes
from tests.kits.processorkit import TOPIC, ProcessorKit, note, open_processor, raw

LINK = "https://example.com"
PUBLIC_LINKS = Mail(app_url=LINK, update_payment_url=LINK, survey_url=LINK, return_url=LINK)


@pytest.fixture
async def bench(kafka_bootstrap: str, migrated_url: str, topic_prefix: str) -> AsyncIterator[ProcessorKit]:
    async with open_processor(kafka_bootstrap, migrated_url, topic_prefix) as made:
        yield made


async def test_an_event_is_applied_once_however_often_it_comes(bench: ProcessorKit) -> None:
    first = await bench.processor.process([note("evt_1", 0), note("evt_2", 1, text="b"), note("evt_1", 2)])
    again = await bench.processor.process([note("evt_2", 3), note("evt_3", 4, text="c")])

    assert first == [Applied(), Applied(), Duplicate()]
    assert again == [Duplicate(), Applied()]
    assert await bench.rows("select email from billing.users") == [{"email": "evt_1,b,c"}]
    assert len(await bench.rows("select 1 from billing.emails")) == 3


async def test_the_rest_of_a_batch_is_applied_around_a_dead_event(bench: ProcessorKit) -> None:
    verdicts = await bench.processor.process(
        [note("evt_1", 0), note("evt_2", 1, trouble="rule"), note("evt_3", 2, user=17), note("evt_4", 3, text="b")]
    )

    assert verdicts[0] == verdicts[3] == Applied()
    assert verdicts[1] == Dead("RuleViolated", "this note is not allowed", "decide")
    assert verdicts[2] == Dead("MalformedEvent", "data.object.user: Input should be a valid string", "decode")
    outcomes = await bench.outcomes()
    assert outcomes == {"evt_1": "applied", "evt_2": "dead", "evt_3": "dead", "evt_4": "applied"}
    reasons = await bench.rows("select reason from billing.events where outcome = 'dead' order by event_id")
    assert reasons[0] == {"reason": "this note is not allowed"}
    assert len(await bench.rows("select 1 from billing.dead_letters where status = 'open'")) == 2


async def test_a_rule_that_uses_a_row_outside_its_refer_is_dead_lettered_with_that_reason(bench: ProcessorKit) -> None:
    """Without the check it would decide on a row that is loaded only if another event of the batch refers to it."""
    rule = replace(notes.rules["note.written"], refer=lambda _: References())
    processor = replace(bench.processor, rules={**notes.rules, "note.written": rule})
    with pytest.raises(Unsettled, match="NotReferred"):  # rows may be torn by another transaction: they are read again
        await processor.process([note("evt_1", 0)])
    verdicts = await processor.process([note("evt_1", 0)], Attempt(number=3))

    (dead,) = verdicts
    assert isinstance(dead, Dead)
    assert (dead.error_class, dead.stage) == ("Unforeseen", "decide")
    assert "user ('', 'u1')" in dead.reason
    assert "`refer`" in dead.reason
    assert await bench.rows("select 1 from billing.users") == []


@pytest.mark.parametrize("source", ["stripe", "replay", "timer", "reconcile", "unheard-of"])
async def test_an_event_of_the_other_mode_is_a_dead_letter(bench: ProcessorKit, source: str) -> None:
    """Whatever appended it, and in both directions. It changes no row, and no number of them trips the brake."""
    live = bench.processor
    for mode, event in ((Mode.TEST, {"livemode": True}), (Mode.LIVE, {})):
        brake = Brake(Limits(window=4, least=2, ratio=0.5, run=2))
        processor = replace(live, config=Config(mode=mode, mail=PUBLIC_LINKS), brake=brake)
        records = []
        for number, type_ in enumerate(("note.written", "note.written", "note.written", "no.rule")):
            body = orjson.dumps(orjson.loads(note_body(f"evt_{mode}_{number}", type_=type_)) | event)
            headers = note_headers(f"evt_{mode}_{number}", type_).encode()
            headers = tuple((name, source.encode() if name == "source" else value) for name, value in headers)
            records.append(record_of(TOPIC, 0, 10 * number, b"cus_1", body, headers, 1_700_000_000.0))
        verdicts = await processor.process(records)
        assert {verdict.error_class if isinstance(verdict, Dead) else verdict for verdict in verdicts} == {"WrongMode"}
    assert set((await bench.outcomes()).values()) == {"dead"}
    assert await bench.rows("select 1 from billing.users") == []
    assert await bench.rows("select 1 from billing.emails") == []


async def test_a_dead_letter_has_all_that_a_replay_needs(bench: ProcessorKit) -> None:
    record = note("evt_1", 7, trouble="rule")
    await bench.processor.process([record])

    (letter,) = bench.letters(1)
    headers = {name: value.decode() for name, value in letter.headers()}
    assert (letter.key(), letter.value()) == (record.key, record.value)
    assert original_headers(tuple(letter.headers())) == record.raw_headers
    assert headers["dead_error_class"] == "RuleViolated"
    assert headers["dead_message"] == "this note is not allowed"
    assert (headers["dead_topic"], headers["dead_partition"], headers["dead_offset"]) == (TOPIC, "0", "7")
    assert (headers["dead_stage"], headers["dead_stream"], headers["dead_group"]) == ("decide", "notes", "test.worker")
    assert headers["dead_attempts"] == "1"
    (row,) = await bench.rows("select dead_partition, dead_offset from billing.dead_letters")
    assert row == {"dead_partition": letter.partition(), "dead_offset": letter.offset()}


async def test_an_event_that_postgres_refuses_is_found_by_halving_and_dies_alone(bench: ProcessorKit) -> None:
    batch = [note(f"evt_{n:02}", n, text=str(n)) for n in range(20)]
    # Valid JSON that passes our checks but that jsonb cannot store: a number beyond its range.
    poison = orjson.loads(batch[13].value or b"")
    text = orjson.dumps(poison).decode().replace('"user":', '"huge":1e400000,"user":')
    batch[13] = raw(text.encode(), 13, "evt_13")

    verdicts = await bench.processor.process(batch)

    assert isinstance(verdicts[13], Dead)
    assert verdicts[13].error_class in ("StoreRefused", "MalformedEvent")
    assert [n for n, verdict in enumerate(verdicts) if verdict != Applied()] == [13]
    (user,) = await bench.rows("select email from billing.users")
    assert user["email"] == ",".join(str(n) for n in range(20) if n != 13)


async def test_a_text_postgres_cannot_hold_is_dead_lettered_not_retried(bench: ProcessorKit) -> None:
    verdicts = await bench.processor.process([note("evt_1", 0, text="a\0b"), note("evt_2", 1)])

    assert isinstance(verdicts[0], Dead)
    assert "U+0000" in verdicts[0].reason
    assert verdicts[1] == Applied()
    assert await bench.outcomes() == {"evt_1": "dead", "evt_2": "applied"}


async def test_a_bug_in_a_rule_is_kept_with_its_traceback_and_replayed_after_the_fix(
    bench: ProcessorKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    (verdict,) = await bench.processor.process([note("evt_1", 0, trouble="bug")])
    assert isinstance(verdict, Dead)
    assert (verdict.error_class, verdict.reason) == ("Unforeseen", "ZeroDivisionError: an unforeseen bug")
    assert "on_note" in verdict.traceback

    monkeypatch.setitem(notes.rules, "note.written", replace(notes.rules["note.written"], decide=lambda *_: []))
    assert await bench.processor.process([note("evt_1", 5, trouble="bug")]) == [Applied()]
    assert await bench.outcomes() == {"evt_1": "applied"}


@pytest.mark.parametrize("value", [None, b"", b"not json", b"[1]", b'"text"', b"{}", b'{"id":"evt_1"}', b"\xff\xfe"])
async def test_a_value_that_is_not_an_event_is_dead_lettered_and_the_partition_continues(
    bench: ProcessorKit, value: bytes | None
) -> None:
    verdicts = await bench.processor.process([raw(value, 0), note("evt_2", 1)])

    assert isinstance(verdicts[0], Dead)
    assert verdicts[0].error_class == "MalformedEvent"
    assert verdicts[1] == Applied()
    assert await bench.outcomes() == {"evt_2": "applied"}
    (letter,) = bench.letters(1)
    assert letter.value() == value


async def test_types_without_a_rule_are_ledgered_as_ignored(bench: ProcessorKit) -> None:
    thin = b'{"id":"evt_thin","object":"v2.core.event","type":"v1.x","created":"2026-11-23T10:00:00Z","livemode":false}'
    assert await bench.processor.process([note("evt_1", 0, type_="foo.created"), raw(thin, 1)]) == [
        Ignored(),
        Ignored(),
    ]
    assert await bench.outcomes() == {"evt_1": "ignored", "evt_thin": "ignored"}


async def test_a_stale_event_is_ledgered_with_its_reason(bench: ProcessorKit) -> None:
    assert await bench.processor.process([note("evt_1", 0, trouble="stale")]) == [Stale("a newer note is stored")]
    assert await bench.outcomes() == {"evt_1": "stale"}


async def test_an_unreadable_event_with_the_id_of_a_settled_one_is_a_duplicate(bench: ProcessorKit) -> None:
    """A conflict with the ledger would block its partition without end."""
    assert await bench.processor.process([note("evt_1", 0)]) == [Applied()]
    assert await bench.processor.process([note("evt_1", 1, user=17), note("evt_2", 2)]) == [Duplicate(), Applied()]
    assert await bench.outcomes() == {"evt_1": "applied", "evt_2": "applied"}


async def test_an_unreadable_event_does_not_hide_a_later_valid_one(bench: ProcessorKit) -> None:
    assert await bench.processor.process([note("evt_1", 0, user=17), note("evt_1", 1)]) == [Duplicate(), Applied()]
    assert await bench.outcomes() == {"evt_1": "applied"}


async def test_a_lasting_conflict_is_halved_and_finally_dead_lettered(bench: ProcessorKit) -> None:
    """Postgres accepts a row but does not return it as it was decided, so each flush conflicts."""
    connection = await asyncpg.connect(bench.url)
    try:
        await connection.execute(
            "CREATE RULE vanish AS ON INSERT TO billing.users WHERE NEW.user_id = 'u2' DO INSTEAD NOTHING"
        )
    finally:
        await connection.close()
    batch = [note("evt_1", 0), raw(note_body("evt_2", "u2"), 1, "evt_2"), note("evt_3", 2, text="c")]
    attempt = Attempt()
    for attempt.number in range(1, 6):
        with pytest.raises(Conflict):
            await bench.processor.process(batch, attempt)
    attempt.number = 6
    verdicts = await bench.processor.process(batch, attempt)

    assert isinstance(verdicts[1], Dead)
    assert verdicts[1].error_class == "Unforeseen"
    assert "Conflict: users" in verdicts[1].reason
    assert verdicts[0] == verdicts[2] == Applied()
    assert await bench.outcomes() == {"evt_1": "applied", "evt_2": "dead", "evt_3": "applied"}
    assert bench.letters_count() == 1


async def test_the_letters_of_an_event_are_closed_when_it_is_settled(bench: ProcessorKit) -> None:
    """All letters of that event are closed, whoever replayed it; letters of other events stay open."""
    await bench.processor.process([note("evt_1", 0, trouble="rule"), note("evt_2", 1, trouble="rule")])
    await bench.processor.process([note("evt_1", 2, trouble="rule")])
    await bench.processor.process([note("evt_1", 3)])

    letters = await bench.rows(
        'select event_id, "offset", status, closed_by from billing.dead_letters order by "offset"'
    )
    assert [(row["event_id"], row["offset"], row["status"]) for row in letters] == [
        ("evt_1", 0, "resolved"),
        ("evt_2", 1, "open"),
        ("evt_1", 2, "resolved"),
    ]
    assert [row["closed_by"] for row in letters] == ["worker", None, "worker"]


async def test_a_broken_deploy_is_stopped_and_nothing_past_the_last_good_event_is_committed(
    bench: ProcessorKit,
) -> None:
    processor = replace(bench.processor, brake=Brake(Limits(window=20, least=5, ratio=0.5, run=10)))
    good = [note(f"evt_good_{n}", n, text=str(n)) for n in range(4)]
    bad = [note(f"evt_bad_{n}", 4 + n, trouble="rule") for n in range(30)]

    with pytest.raises(BrakeTripped) as tripped:
        await processor.process([*good, *bad])

    assert tripped.value.reasons == ("5 times RuleViolated: this note is not allowed",)
    assert await bench.outcomes() == {f"evt_good_{n}": "applied" for n in range(4)}
    assert bench.letters_count() == 0


async def test_no_worker_of_a_stopped_group_dead_letters_any_more(bench: ProcessorKit) -> None:
    """Until another version is deployed or the brake is released. Valid events are still processed."""
    brakes = Brakes(SecretStr(bench.url))
    await brakes.trip("test.worker", "20 died", ["20 times RuleViolated"], "1")

    assert await bench.processor.process([note("evt_1", 0)]) == [Applied()]
    with pytest.raises(BrakeTripped, match=r"another worker of test\.worker has stopped: 20 died"):
        await bench.processor.process([note("evt_2", 1, trouble="rule")])
    (verdict,) = await replace(bench.processor, code_version="2").process([note("evt_3", 2, trouble="rule")])
    assert isinstance(verdict, Dead)
    assert await brakes.release("test.worker", "me", let_die=7)
    (verdict,) = await bench.processor.process([note("evt_2", 3, trouble="rule")])
    assert isinstance(verdict, Dead)
    assert [await brakes.take_allowance("test.worker") for _ in range(2)] == [7, 0]


async def test_a_failed_replay_does_not_trip_the_brake(bench: ProcessorKit) -> None:
    processor = replace(bench.processor, brake=Brake(Limits(window=20, least=5, ratio=0.5, run=5)))
    dead = [note(f"evt_{n}", n, trouble="rule") for n in range(4)]
    for _ in range(3):
        assert all(isinstance(verdict, Dead) for verdict in await processor.process(dead))


async def test_a_retry_of_a_batch_publishes_no_letter_twice(bench: ProcessorKit) -> None:
    attempt = Attempt()
    batch = [note("evt_1", 0, trouble="rule")]
    await bench.processor.process(batch, attempt)
    attempt.number += 1
    await bench.processor.process(batch, attempt)

    assert bench.letters_count() == 1
    (row,) = await bench.rows("select attempts from billing.events")
    assert row["attempts"] >= 2
