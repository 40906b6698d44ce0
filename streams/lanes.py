"""Runs the agent's batches in parallel: one is decoded and decided while Postgres works on another.

Two batches with a partition in common never run at once, and the earlier one starts first, so a customer's events stay
in order. A batch that waits for its partition does not block batches of other partitions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

Work = Coroutine[Any, Any, None]


class PartitionLanes:
    """Runs `count` coroutines and queues `count` more. They must not raise."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: deque[tuple[frozenset[int], Work]] = deque()
        self._running: dict[asyncio.Task[None], frozenset[int]] = {}
        self._changed = asyncio.Event()

    async def start(self, partitions: frozenset[int], work: Work) -> None:
        """Starts or queues `work`. Returns once the queue has room for another."""
        self._waiting.append((partitions, work))
        self._begin()
        while len(self._waiting) >= self._count:
            self._changed.clear()
            await self._changed.wait()

    async def cancel(self) -> None:
        """Cancels the running work and waits for its end. Queued work never starts."""
        for _, work in self._waiting:
            work.close()
        self._waiting.clear()
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()

    def _begin(self) -> None:
        """Starts queued work while a lane is free and no earlier work uses its partitions."""
        taken = set().union(*self._running.values())
        for _ in range(len(self._waiting)):
            partitions, work = self._waiting.popleft()
            if len(self._running) < self._count and taken.isdisjoint(partitions):
                task = asyncio.create_task(work)
                self._running[task] = partitions
                task.add_done_callback(self._ended)
            else:
                self._waiting.append((partitions, work))
            taken |= partitions

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._begin()
        self._changed.set()
