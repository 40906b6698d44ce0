"""Timers on real Postgres and real Kafka: each acts once, at its time, despite crashes, races and clock jumps."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from pydantic import SecretStr

from eventlog import append
from eventlog.append import EventAppender
from eventlog.entry import Entry
from local.stack.ports import free_port
from scheduler.timers import Scheduler
from schemas.errors import LogUnavailable
from schemas.settings import Config
from schemas.statuses import TimerStatus
from schemas.verdict import Applied, Duplicate
from tests.kits.timerkit import START, TimerKit, errand
from tests.waiting import eventually

_ACTED = "timer.errand"
_ASLEEP = """
FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'billing-scheduler'
AND state = 'idle' AND query LIKE 'SELECT min(due_at)%'
"""


@pytest.fixture
async def rig(kafka_bootstrap: str, database: SecretStr, topic_prefix: str) -> AsyncIterator[TimerKit]:
    opened = await TimerKit.open(kafka_bootstrap, database, topic_prefix, 3, Config())
    yield opened
    await opened.close()


async def test_a_due_timer_becomes_an_event_of_its_customer(rig: TimerKit) -> None:
    """It has the key and partition of the customer's own events and all headers of a record, and then is `fired`."""
    rig.send("evt_1", "user.came", "acct_1/cus_1", user="u1")
    await rig.start(errand("a", account="acct_1", customer_id="cus_1", livemode=True), errand("b", START + _later(1)))

    assert await rig.scheduler().fire_due() == 1

    (theirs, ours) = rig.read()
    assert (ours.key, ours.partition, ours.offset) == (theirs.key, theirs.partition, theirs.offset + 1)
    value = orjson.loads(ours.value or b"")
    assert ours.headers == {
        "event_id": value["id"],
        "type": "timer.errand",
        "source": "timer",
        "account": "acct_1",
        "livemode": "true",
        "api_version": "",
        "endpoint": "",
        "received_at": "2026-03-01T12:30:15.123456+00:00",
    }
    assert value["data"]["object"]["data"] == {"step": 2}
    assert await rig.statuses() == {"errand:a": "fired", "errand:b": "pending"}


async def test_a_fired_timer_acts_once_and_is_done(rig: TimerKit) -> None:
    await rig.start(errand("a"))
    scheduler = rig.scheduler()
    await scheduler.fire_due()
    records = rig.read()

    first, again = await rig.work(records), await rig.work(records)

    event_id = records[0].headers["event_id"]
    assert (first, again) == ({event_id: Applied()}, {event_id: Duplicate()})
    assert await rig.trails() == {"a": _ACTED}
    assert await rig.statuses() == {"errand:a": "done"}
    assert await scheduler.fire_due() == 0


async def test_two_schedulers_at_once_fire_none_twice(rig: TimerKit) -> None:
    subjects = [f"s{n:03}" for n in range(300)]
    await rig.start(*map(errand, subjects))
    schedulers = [rig.scheduler(batch=20), rig.scheduler(batch=20)]

    async def fire_all(scheduler: Scheduler) -> int:
        fired = 0
        while "pending" in set((await rig.statuses()).values()):
            fired += await scheduler.fire_due()
        return fired

    fired = await asyncio.gather(*map(fire_all, schedulers))

    records = rig.read()
    assert sum(fired) == len(records) == 300
    assert min(fired) > 0, "both had turns"
    await rig.work(records)
    assert await rig.trails() == dict.fromkeys(subjects, _ACTED)


async def test_killed_between_append_and_mark_each_timer_acts_once(rig: TimerKit) -> None:
    """The next scheduler appends the same events again; the ledger recognises them by their ids."""
    await rig.start(*map(errand, "abc"))
    command = [sys.executable, "-m", "tests.kits.timerkit", rig.settings.kafka_bootstrap, rig.settings.events_topic]
    command += [rig.settings.database_url.get_secret_value(), START.isoformat()]
    killed = await asyncio.to_thread(subprocess.run, command, timeout=60, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert set((await rig.statuses()).values()) == {"pending"}

    scheduler = rig.scheduler()
    await eventually(scheduler.fire_due)  # Postgres may take a moment to notice that the session has ended

    records = rig.read()
    assert set(Counter(record.headers["event_id"] for record in records).values()) == {2}
    verdicts = await rig.processor.process(records)
    assert Counter(map(type, verdicts)) == {Applied: 3, Duplicate: 3}
    assert await rig.trails() == dict.fromkeys("abc", _ACTED)


async def test_a_clock_that_jumps_fires_nothing_twice(rig: TimerKit) -> None:
    await rig.start(errand("a", START + _later(1)), errand("b", START + _later(9)))
    scheduler = rig.scheduler()

    fired = [await scheduler.fire_due()]
    for days in (1, 7, -7, -100, 102, 5, -5, 5):
        rig.now += timedelta(days=days)
        fired.append(await scheduler.fire_due())
        await rig.work()

    assert fired == [0, 1, 0, 0, 0, 0, 0, 0, 0]
    rig.now = START + _later(3650)
    assert await scheduler.fire_due() == 1
    await rig.work()
    assert await rig.trails() == {"a": _ACTED, "b": _ACTED}


async def test_T17_postgres_clock_decides_whatever_the_process_believes(rig: TimerKit) -> None:
    now = datetime.now(UTC)
    await rig.start(errand("a", now - timedelta(minutes=1)), errand("b", now + timedelta(minutes=10)))
    for minutes in (660, -660):
        rig.now = now + timedelta(minutes=minutes)
        scheduler = rig.scheduler(ahead=timedelta(0))
        assert await scheduler.fire_due() == (1 if minutes > 0 else 0)  # "a" by the first, and "b" by neither
    assert await rig.scheduler(ahead=timedelta(minutes=11)).fire_due() == 1


async def test_overdue_timers_fire_in_the_order_they_were_due(rig: TimerKit) -> None:
    """After a long stop, in several batches and with several schedulers, the records of each key are in order."""
    # The keys sort against the order of time, so that sorting by key would fail the test.
    timers = [errand(f"s{40 - n:02}", START + _later(n), customer_id=f"cus_{n % 4}") for n in range(40)]
    random.Random(7).shuffle(timers)
    await rig.start(*timers)
    rig.now = START + _later(100)
    schedulers = [rig.scheduler(batch=3), rig.scheduler(batch=7)]
    turn = 0
    while await schedulers[turn % 2].fire_due():
        turn += 1

    records = rig.read()
    for customer in range(4):
        theirs = [r for r in records if r.key == f"cus_{customer}".encode()]
        subjects = [orjson.loads(r.value or b"")["data"]["object"]["subject"] for r in theirs]
        assert subjects == [f"s{40 - n:02}" for n in range(customer, 40, 4)]


async def test_a_timer_cancelled_after_it_fired_does_not_act(rig: TimerKit) -> None:
    """The customer's event has a later time than the timer's but is applied first, as after a backlog or a replay."""
    await rig.start(errand("a"))
    await rig.scheduler().fire_due()
    fired = rig.read()
    rig.send("evt_1", "errand.cancelled", "cus_a", customer="cus_a", subject="a")
    await rig.work()

    await rig.work(fired)

    assert await rig.trails() == {}
    assert await rig.statuses() == {"errand:a": "cancelled"}


async def test_a_timer_moved_after_it_fired_acts_at_its_new_time_only(rig: TimerKit) -> None:
    await rig.start(errand("a"))
    scheduler = rig.scheduler()
    await scheduler.fire_due()
    fired = rig.read()
    later = START + _later(2)
    rig.send("evt_1", "errand.planned", "cus_a", customer="cus_a", subject="a", due_at=later.isoformat())
    await rig.work()
    await rig.work(fired)
    assert (await rig.trails(), await rig.timers()) == ({}, {"errand:a": (TimerStatus.PENDING, later)})

    rig.now = later
    assert await scheduler.fire_due() == 1
    await rig.work()

    assert await rig.trails() == {"a": _ACTED}
    assert await rig.statuses() == {"errand:a": "done"}


async def test_a_timer_ordered_again_unchanged_does_not_fire_again(rig: TimerKit) -> None:
    await rig.start(errand("a"))
    scheduler = rig.scheduler()
    await scheduler.fire_due()
    rig.send("evt_1", "errand.planned", "cus_a", customer="cus_a", subject="a", due_at=START.isoformat())
    await rig.work([record for record in rig.read() if record.headers["event_id"] == "evt_1"])

    assert await scheduler.fire_due() == 0


async def test_the_worker_result_wins_over_a_later_fired_mark(rig: TimerKit) -> None:
    """The event may be applied before the scheduler writes `fired`: `done` stays, and a moved timer stays moved."""
    later = START + _later(1)
    rig.send("evt_1", "errand.planned", "cus_b", customer="cus_b", subject="b", due_at=later.isoformat())

    class ReadAtOnce(EventAppender):
        async def append(self, entries: Sequence[Entry], stored: Callable[[], None] = lambda: None) -> None:
            await super().append(entries, stored)
            await rig.work()

    await rig.start(errand("a"), errand("b"))
    await rig.scheduler(event_log=rig.event_log(ReadAtOnce)).fire_due()

    assert await rig.trails() == {"a": _ACTED}
    assert await rig.timers() == {"errand:a": (TimerStatus.DONE, START), "errand:b": (TimerStatus.PENDING, later)}


async def test_a_timer_that_kafka_does_not_accept_stays_pending_and_is_logged(
    rig: TimerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "_DELIVERY_TIMEOUT_S", 1)
    await rig.start(errand("a"))
    scheduler = rig.scheduler(event_log=rig.event_log(bootstrap=f"127.0.0.1:{free_port()}"))

    with pytest.raises(LogUnavailable):
        await scheduler.fire_due()
    async with _running(scheduler):
        await eventually(_now(lambda: (scheduler.trouble() or "").startswith("LogUnavailable")))

    assert await rig.statuses() == {"errand:a": "pending"}
    assert await rig.scheduler().fire_due() == 1


async def test_a_new_timer_wakes_the_scheduler(rig: TimerKit) -> None:
    """The poll interval is a minute, so the worker's NOTIFY ends the sleep. It also works after a lost connection."""
    scheduler = rig.scheduler(poll_s=60)
    async with _running(scheduler):
        await eventually(lambda: rig.rows(f"SELECT pid {_ASLEEP}"))
        await rig.start(errand("a"))
        await eventually(_fired(rig, "errand:a"))

        await eventually(lambda: rig.rows(f"SELECT pid {_ASLEEP}"))
        await rig.rows(f"SELECT pg_terminate_backend(pid) {_ASLEEP}")
        await rig.start(errand("b"))
        await eventually(_fired(rig, "errand:b"))
    assert scheduler.trouble() is None


def _later(days: float) -> timedelta:
    return timedelta(days=days)


@asynccontextmanager
async def _running(scheduler: Scheduler) -> AsyncIterator[None]:
    task = asyncio.create_task(scheduler.run())
    try:
        yield
    finally:
        scheduler.stop()
        await asyncio.wait_for(task, 30)


def _now(condition: Callable[[], bool]) -> Callable[[], Awaitable[object]]:
    async def ask() -> bool:
        return condition()

    return ask


def _fired(rig: TimerKit, key: str) -> Callable[[], Awaitable[object]]:
    async def ask() -> bool:
        return (await rig.statuses())[key] == "fired"

    return ask
