"""Inside the agent: batches beside each other, so that one is decoded and decided while Postgres works on another.

Two batches with a partition in common are never under way together, and the one that came first begins first: a
customer's events stay one sequence. One that must wait for its partition holds up no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

Work = Coroutine[Any, Any, None]


class PartitionLanes:
    """At most `count` pieces of work at a time, and as many that wait. What they raise must be nothing: who starts
    them sees to that."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: deque[tuple[frozenset[int], Work]] = deque()
        self._under_way: dict[asyncio.Task[None], frozenset[int]] = {}
        self._moved = asyncio.Event()

    async def start(self, partitions: frozenset[int], work: Work) -> None:
        """Returns once there is room for another: `work` has begun, or waits for its partitions or a lane."""
        self._waiting.append((partitions, work))
        self._begin()
        while len(self._waiting) >= self._count:
            self._moved.clear()
            await self._moved.wait()

    async def cancel(self) -> None:
        """Ends what is under way, and waits for it; what has not begun never does."""
        for _, work in self._waiting:
            work.close()
        self._waiting.clear()
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._under_way.clear()

    def _begin(self) -> None:
        """What can: there is a lane, and nothing that came before it is on its partitions."""
        taken = set().union(*self._under_way.values())
        for _ in range(len(self._waiting)):
            partitions, work = self._waiting.popleft()
            if len(self._under_way) < self._count and taken.isdisjoint(partitions):
                task = asyncio.create_task(work)
                self._under_way[task] = partitions
                task.add_done_callback(self._ended)
            else:
                self._waiting.append((partitions, work))
            taken |= partitions

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._begin()
        self._moved.set()
