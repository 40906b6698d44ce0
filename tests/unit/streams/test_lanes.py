"""Batches beside each other: in any order of ends, a partition's batches one at a time and as they came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from streams.lanes import PartitionLanes

TURNS = 50
"""More turns of the loop than anything here needs."""


class Site:
    """What is under way, what has begun, and a switch to end each piece of work."""

    def __init__(self, count: int) -> None:
        self.lanes = PartitionLanes(count)
        self.begun: list[int] = []
        self.under_way: dict[int, frozenset[int]] = {}
        self.most = 0
        self.overlaps: list[tuple[int, int]] = []
        self._ends: dict[int, asyncio.Event] = {}

    async def work(self, number: int, partitions: frozenset[int]) -> None:
        self.overlaps += [(number, other) for other, held in self.under_way.items() if held & partitions]
        self.begun.append(number)
        self.under_way[number] = partitions
        self.most = max(self.most, len(self.under_way))
        try:
            await self._ends.setdefault(number, asyncio.Event()).wait()
        finally:
            del self.under_way[number]

    def start(self, number: int, *partitions: int) -> asyncio.Task[None]:
        held = frozenset(partitions)
        return asyncio.create_task(self.lanes.start(held, self.work(number, held)))

    def end(self, number: int) -> None:
        self._ends[number].set()


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    assert condition()


async def test_one_that_waits_for_its_partition_holds_up_no_other() -> None:
    site = Site(2)
    site.start(1, 0)
    site.start(2, 0)
    site.start(3, 5)
    await _until(lambda: site.begun == [1, 3])
    site.end(1)
    await _until(lambda: site.begun == [1, 3, 2])
    await site.lanes.cancel()


async def test_a_later_one_does_not_pass_one_that_waits_for_the_same_partition() -> None:
    """3 shares no partition with what is under way, but with 2, which came before it."""
    site = Site(3)
    site.start(1, 0)
    site.start(2, 0, 7)
    site.start(3, 7)
    await _until(lambda: site.begun == [1])
    for number in (1, 2):
        site.end(number)
        await _until(lambda number=number: site.begun[-1] == number + 1)  # type: ignore[misc]  # mypy knows no lambda's default
    assert site.overlaps == []
    await site.lanes.cancel()


async def test_what_waits_is_bounded() -> None:
    """Whoever feeds the lanes is held up, so that Kafka's records wait on the log and not here."""
    site = Site(2)
    starts = [site.start(number, 0) for number in range(4)]
    await _until(lambda: sum(start.done() for start in starts) == 2)
    await asyncio.sleep(0)
    assert [start.done() for start in starts] == [True, True, False, False]
    for number in range(4):
        await _until(lambda number=number: number in site.under_way)  # type: ignore[misc]  # as above
        site.end(number)
    await asyncio.gather(*starts)
    assert site.begun == [0, 1, 2, 3]


async def test_what_has_not_begun_when_all_is_cancelled_never_does() -> None:
    site = Site(1)
    site.start(1, 0)
    waits = site.start(2, 0)
    await _until(lambda: site.begun == [1])
    await site.lanes.cancel()
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert site.begun == [1]
    assert site.under_way == {}


@given(
    count=st.integers(1, 4),
    batches=st.lists(st.frozensets(st.integers(0, 4), min_size=1, max_size=3), max_size=12),
    picks=st.lists(st.integers(0, 11), min_size=12, max_size=12),
)
def test_in_whatever_order_they_end(count: int, batches: list[frozenset[int]], picks: list[int]) -> None:
    async def run() -> Site:
        site = Site(count)

        async def feed() -> None:
            for number, partitions in enumerate(batches):
                await site.lanes.start(partitions, site.work(number, partitions))

        feeding = asyncio.create_task(feed())
        for done in range(len(batches)):
            await _until(lambda: bool(site.under_way))
            under_way = sorted(site.under_way)
            site.end(under_way[picks[done] % len(under_way)])
            await _until(lambda done=done: len(site.begun) - len(site.under_way) == done + 1)  # type: ignore[misc]  # as above
        await feeding
        return site

    site = asyncio.run(run())
    assert site.overlaps == []
    assert site.most <= count
    assert sorted(site.begun) == list(range(len(batches)))
    for partition in range(5):
        of_partition = [number for number in site.begun if partition in batches[number]]
        assert of_partition == sorted(of_partition)
