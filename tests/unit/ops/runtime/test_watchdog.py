"""What counts as no progress, and what excuses it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

from eventlog.lag import GroupPosition
from ops.runtime.watchdog import Watchdog
from schemas.timing import Stillness
from streams.faust.commit_watch import CommitWatch
from streams.faust.watch import ConsumerWatch


def test_progress_is_never_reported_as_stuck() -> None:
    stillness = Stillness(10)
    assert [stillness.look(float(now), now // 5) for now in range(0, 200, 2)] == [None] * 100


def test_no_progress_is_reported_after_the_limit() -> None:
    stillness = Stillness(10)
    found = [stillness.look(float(now), "same") for now in range(0, 16, 2)]
    assert found == [None, None, None, None, None, None, 12.0, 14.0]


def test_an_excused_check_restarts_its_time() -> None:
    stillness = Stillness(10)
    for now in range(0, 10, 2):
        assert stillness.look(float(now), "same") is None
    assert stillness.look(10.0, "same", is_excused=True) is None
    assert stillness.look(12.0, "same") is None


def test_a_process_stopped_by_a_signal_does_not_count_as_stuck() -> None:
    stillness = Stillness(10)
    assert stillness.look(0.0, "same") is None
    assert stillness.look(2.0, "same") is None
    assert stillness.look(3600.0, "same") is None


def test_only_an_owned_partition_with_lag_can_be_stuck() -> None:
    watch = CommitWatch(10)
    for now in range(0, 12, 2):
        assert (
            watch.look(float(now), {0: GroupPosition(5, 5), 1: GroupPosition(5, 9), 2: GroupPosition(now, 100)}) is None
        )
    reason = watch.look(12.0, {0: GroupPosition(5, 5), 1: GroupPosition(5, 9), 2: GroupPosition(12, 100)})
    assert reason == "committed offsets have not moved while the lag is above zero: partition 1 at 5, lag 4, for 12 s"
    assert watch.look(14.0, {0: GroupPosition(5, 5)}) is None, "the partition moved to another worker"
    assert watch.look(16.0, {1: GroupPosition(5, 9)}) is None, "the partition came back"


def test_retries_shown_in_readyz_do_not_count_as_stuck() -> None:
    watch = CommitWatch(10)
    for now in range(0, 100, 2):
        assert watch.look(float(now), {0: GroupPosition(5, 9)}, is_excused=True) is None


async def test_a_reason_ends_the_process_and_shows_in_livez() -> None:
    ended = threading.Event()
    reasons: list[str] = []

    def end(reason: str) -> None:
        reasons.append(reason)
        ended.set()

    watchdog = Watchdog({"turns": lambda: "no turn has ended for 200 s"}, limit_s=2, end=end)
    watchdog.start()
    assert await asyncio.to_thread(ended.wait, 10)
    await watchdog.stop()
    assert reasons == ["turns: no turn has ended for 200 s"]
    assert watchdog.trouble() == reasons[0]


async def test_a_blocked_loop_is_named_when_another_check_reaches_its_limit_first() -> None:
    ended = threading.Event()
    reasons: list[str] = []

    def end(reason: str) -> None:
        reasons.append(reason)
        ended.set()

    watchdog = Watchdog({"offsets": lambda: "no offset has moved for 8 s"}, limit_s=8, end=end)
    watchdog.start()
    await asyncio.sleep(0)
    assert ended.wait(30), "this wait blocks the loop"
    await watchdog.stop()
    assert reasons == [
        "offsets: no offset has moved for 8 s; event_loop: the event loop has not turned for at least 1 s"
    ]


async def test_a_running_loop_is_not_ended() -> None:
    checked = threading.Event()
    calls: list[int] = []

    def look() -> None:
        calls.append(1)
        if len(calls) == 6:
            checked.set()

    ended: list[str] = []
    watchdog = Watchdog({"look": look}, limit_s=1, end=ended.append)
    watchdog.start()
    assert await asyncio.to_thread(checked.wait, 20)
    await watchdog.stop()
    assert ended == []


def test_a_broker_that_does_not_answer_shows_in_readyz() -> None:
    """Faust reports a lost broker only after minutes; /readyz must report it earlier."""

    class Brokers:
        answer: dict[int, GroupPosition] | None = None

        def read(self) -> dict[int, GroupPosition] | None:
            return self.answer

    brokers, nothing = Brokers(), cast("Any", None)
    watch = ConsumerWatch(nothing, nothing, cast("Any", brokers), "billing.events", limit_s=10, join_s=10)
    assert watch.kafka_trouble() is None
    assert watch.offsets() is None, "this is not a reason to end the process"
    assert watch.kafka_trouble() == "no broker returned the group's offsets"
    brokers.answer = {}
    watch.offsets()
    assert watch.kafka_trouble() is None
