"""Concurrent batches: each partition's batches run one at a time in order, whichever batch ends first."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from streams.lanes import PartitionLanes
from tests.waiting import eventually

ITERATIONS = 50
"""Loop iterations; more than any test here needs."""


class LaneRecorder:
    """Records which batches have started and which are in flight, and can end each of them."""

    def __init__(self, count: int) -> None:
        self.lanes = PartitionLanes(count)
        self.started: list[int] = []
        self.in_flight: dict[int, frozenset[int]] = {}
        self.most = 0
        self.overlaps: list[tuple[int, int]] = []
        self._ends: dict[int, asyncio.Event] = {}

    async def work(self, number: int, partitions: frozenset[int]) -> None:
        self.overlaps += [(number, other) for other, held in self.in_flight.items() if held & partitions]
        self.started.append(number)
        self.in_flight[number] = partitions
        self.most = max(self.most, len(self.in_flight))
        try:
            await self._ends.setdefault(number, asyncio.Event()).wait()
        finally:
            del self.in_flight[number]

    def start(self, number: int, *partitions: int) -> asyncio.Task[None]:
        held = frozenset(partitions)
        return asyncio.create_task(self.lanes.start(held, self.work(number, held)))

    def end(self, number: int) -> None:
        self._ends[number].set()


async def test_a_batch_waiting_for_its_partition_blocks_no_other() -> None:
    recorder = LaneRecorder(2)
    recorder.start(1, 0)
    recorder.start(2, 0)
    recorder.start(3, 5)
    await eventually(lambda: recorder.started == [1, 3], every_s=0)
    recorder.end(1)
    await eventually(lambda: recorder.started == [1, 3, 2], every_s=0)
    await recorder.lanes.cancel()


async def test_a_later_batch_does_not_overtake_one_with_the_same_partition() -> None:
    """3 shares no partition with a batch in flight, but shares one with 2, which came before it."""
    recorder = LaneRecorder(3)
    recorder.start(1, 0)
    recorder.start(2, 0, 7)
    recorder.start(3, 7)
    await eventually(lambda: recorder.started == [1], every_s=0)
    for number in (1, 2):
        recorder.end(number)
        await eventually(lambda number=number: recorder.started[-1] == number + 1, every_s=0)  # type: ignore[misc]  # mypy knows no lambda's default
    assert recorder.overlaps == []
    await recorder.lanes.cancel()


async def test_the_queue_is_bounded() -> None:
    """The caller has to wait, so records stay in Kafka and not in memory."""
    recorder = LaneRecorder(2)
    starts = [recorder.start(number, 0) for number in range(4)]
    await eventually(lambda: sum(start.done() for start in starts) == 2, every_s=0)
    await asyncio.sleep(0)
    assert [start.done() for start in starts] == [True, True, False, False]
    for number in range(4):
        await eventually(lambda number=number: number in recorder.in_flight, every_s=0)  # type: ignore[misc]  # as above
        recorder.end(number)
    await asyncio.gather(*starts)
    assert recorder.started == [0, 1, 2, 3]


async def test_queued_batches_do_not_start_after_cancellation() -> None:
    recorder = LaneRecorder(1)
    recorder.start(1, 0)
    waits = recorder.start(2, 0)
    await eventually(lambda: recorder.started == [1], every_s=0)
    await recorder.lanes.cancel()
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    for _ in range(ITERATIONS):
        await asyncio.sleep(0)
    assert recorder.started == [1]
    assert recorder.in_flight == {}


@given(
    count=st.integers(1, 4),
    batches=st.lists(st.frozensets(st.integers(0, 4), min_size=1, max_size=3), max_size=12),
    picks=st.lists(st.integers(0, 11), min_size=12, max_size=12),
)
def test_partition_order_is_kept_for_any_order_of_completion(
    count: int, batches: list[frozenset[int]], picks: list[int]
) -> None:
    async def run() -> LaneRecorder:
        recorder = LaneRecorder(count)

        async def feed() -> None:
            for number, partitions in enumerate(batches):
                await recorder.lanes.start(partitions, recorder.work(number, partitions))

        feeding = asyncio.create_task(feed())
        for done in range(len(batches)):
            await eventually(lambda: bool(recorder.in_flight), every_s=0)
            in_flight = sorted(recorder.in_flight)
            recorder.end(in_flight[picks[done] % len(in_flight)])
            await eventually(lambda done=done: len(recorder.started) - len(recorder.in_flight) == done + 1, every_s=0)  # type: ignore[misc]  # as above
        await feeding
        return recorder

    recorder = asyncio.run(run())
    assert recorder.overlaps == []
    assert recorder.most <= count
    assert sorted(recorder.started) == list(range(len(batches)))
    for partition in range(5):
        of_partition = [number for number in recorder.started if partition in batches[number]]
        assert of_partition == sorted(of_partition)
