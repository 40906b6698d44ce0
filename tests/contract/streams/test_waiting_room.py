"""An event with an unknown reference waits, is appended to the log again, and is applied or dies at its limit (D3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest
from pydantic import SecretStr

from schemas.settings import Config
from schemas.verdict import Applied, Dead, Waiting
from tests.kits.timerkit import RECEIVED_AT, START, TimerKit, body

LIMIT = timedelta(hours=72)


@pytest.fixture
async def rig(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[TimerKit]:
    """One partition, so that every waiting event has other customers' events after it."""
    opened = await TimerKit.open(kafka_bootstrap, database, topic_prefix, 1, Config())
    yield opened
    await opened.close()


async def test_a_waiting_event_delays_no_other_event(rig: TimerKit) -> None:
    """Other customers' events, and the customer's own, continue in the same partition and batch."""
    rig.send("evt_1", "user.came", "cus_1", user="u1")
    rig.send("evt_2", "user.answered", "cus_2", user="u2", customer="cus_2")
    rig.send("evt_3", "user.answered", "cus_1", user="u1")
    rig.send("evt_4", "user.came", "cus_2", user="u2b")

    verdicts = await rig.work()

    assert verdicts == {
        "evt_1": Applied(),
        "evt_2": Waiting(START + timedelta(seconds=30), "user u2"),
        "evt_3": Applied(),
        "evt_4": Applied(),
    }
    (row,) = await rig.rows("SELECT outcome, reason, attempts FROM billing.events WHERE event_id = 'evt_2'")
    assert row == {"outcome": "waiting", "reason": "user u2", "attempts": 1}
    (timer,) = await rig.rows("SELECT timer_key, kind, subject, customer_id, due_at, livemode FROM billing.timers")
    assert timer == {
        "timer_key": "retry:evt_2",
        "kind": "retry",
        "subject": "evt_2",
        "customer_id": "cus_2",
        "due_at": START + timedelta(seconds=30),
        "livemode": False,
    }


async def test_a_waiting_event_is_applied_once_its_reference_is_known(rig: TimerKit) -> None:
    rig.send("evt_1", "user.answered", "cus_1", user="u1", customer="cus_1", note='a\\u0000b "é"')
    (first,) = records = rig.read()
    await rig.work(records)
    scheduler = rig.scheduler()
    assert await scheduler.fire_due() == 0

    rig.move(seconds=30)
    assert await scheduler.fire_due() == 1
    (again,) = records = rig.read()
    assert await rig.work(records) == {"evt_1": Waiting(rig.now + timedelta(minutes=2), "user u1")}

    rig.send("evt_2", "user.came", "cus_1", user="u1")
    await rig.work()
    rig.move(minutes=2)
    assert await scheduler.fire_due() == 1
    assert await rig.work() == {"evt_1": Applied()}

    assert (again.key, orjson.loads(again.value or b"")) == (first.key, orjson.loads(first.value or b""))
    assert again.headers == first.headers | {"source": "timer"}
    assert await rig.trails() == {"u1": "evt_2,evt_1"}
    (row,) = await rig.rows(
        "SELECT outcome, reason, attempts, received_at FROM billing.events WHERE type LIKE '%answered'"
    )
    assert (row["outcome"], row["reason"], row["attempts"]) == ("applied", None, 3)
    assert row["received_at"].isoformat() == RECEIVED_AT
    assert await rig.statuses() == {"retry:evt_1": "done"}
    rig.move(days=10)
    assert await scheduler.fire_due() == 0


async def test_the_missing_event_may_come_later_in_the_batch(rig: TimerKit) -> None:
    rig.send("evt_1", "user.answered", "cus_1", user="u1")
    rig.send("evt_2", "user.came", "cus_1", user="u1")

    assert await rig.work() == {"evt_1": Applied(), "evt_2": Applied()}
    assert await rig.trails() == {"u1": "evt_2,evt_1"}
    assert await rig.timers() == {}


async def test_at_its_limit_an_event_dies_and_the_reason_names_what_was_missing(rig: TimerKit) -> None:
    rig.send("evt_1", "user.answered", "cus_1", user="u1", customer="cus_1")
    scheduler = rig.scheduler()
    verdicts = [(await rig.work())["evt_1"]]
    while isinstance(latest := verdicts[-1], Waiting):
        rig.now = latest.until
        assert await scheduler.fire_due() == 1
        verdicts.append((await rig.work())["evt_1"])

    assert rig.now == START + LIMIT
    reason = "still unknown after 72 h: user u1"
    assert verdicts[-1] == Dead("NeverKnown", reason, "decide")
    (letter,) = await rig.rows("SELECT event_id, error_class, message, status FROM billing.dead_letters")
    assert letter == {"event_id": "evt_1", "error_class": "NeverKnown", "message": reason, "status": "open"}
    (row,) = await rig.rows("SELECT outcome, reason, attempts FROM billing.events")
    assert row == {"outcome": "dead", "reason": reason, "attempts": len(verdicts)}
    assert await rig.statuses() == {"retry:evt_1": "done"}
    assert await scheduler.fire_due() == 0


async def test_a_dead_letter_of_the_waiting_room_can_be_replayed(rig: TimerKit) -> None:
    rig.send("evt_1", "user.answered", "cus_1", user="u1")
    records = rig.read()
    await rig.work(records)
    rig.now = START + LIMIT
    assert isinstance((await rig.work(records))["evt_1"], Dead)
    rig.send("evt_2", "user.came", "cus_1", user="u1")
    await rig.work()

    assert await rig.work(records) == {"evt_1": Applied()}


async def test_a_backlog_older_than_the_limit_waits_all_the_same(rig: TimerKit) -> None:
    """After a stop of four days the missing event may be the next record: the limit counts from the first attempt."""
    rig.now = START + timedelta(days=4)
    rig.send("evt_1", "user.answered", "cus_1", user="u1")

    assert await rig.work() == {"evt_1": Waiting(rig.now + timedelta(seconds=30), "user u1")}


async def test_an_event_applied_by_another_delivery_is_not_appended_again(rig: TimerKit) -> None:
    rig.send("evt_1", "user.answered", "cus_1", user="u1")
    records = rig.read()
    await rig.work(records)
    rig.send("evt_2", "user.came", "cus_1", user="u1")
    await rig.work()
    await rig.work(records)
    await rig.rows(
        "UPDATE billing.timers SET status = 'pending' RETURNING 1"
    )  # as an older version of the worker might leave it

    rig.move(hours=1)
    await rig.scheduler().fire_due()

    assert rig.read() == []
    assert await rig.statuses() == {"retry:evt_1": "done"}
    assert await rig.trails() == {"u1": "evt_2,evt_1"}


async def test_an_event_has_one_timer_however_often_it_is_delivered(rig: TimerKit) -> None:
    rig.send("evt_1", "user.answered", "cus_1", user="u1")
    records = rig.read()
    for _ in range(3):
        await rig.work(records)
        await rig.work([*records, *records])

    rig.move(days=1)
    assert await rig.scheduler().fire_due() == 1
    assert len(rig.read()) == 1


async def test_an_event_that_outgrew_a_record_does_not_hold_up_the_others(rig: TimerKit) -> None:
    """jsonb writes 1e300 as 301 digits, so an event of 50 kB may become too large to be appended again."""
    rig.send("evt_1", "user.answered", "cus_1", user="u1")
    (record,) = rig.read()
    huge = body("evt_1", "user.answered", user="u1", numbers=[1e300] * 8_000)
    await rig.work([replace(record, value=huge)])
    rig.send("evt_2", "user.answered", "cus_1", user="u2")
    await rig.work()

    rig.move(hours=1)
    await rig.scheduler().fire_due()

    assert [record.headers["event_id"] for record in rig.read()] == ["evt_2"]
