"""Inside the agent: batches beside each other, so that one is decoded and decided while Postgres works on another.

Two batches with a partition in common are never under way together: a customer's events stay one sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Lanes:
    """At most `count` pieces of work at a time. What they raise must be nothing: who starts them sees to that."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._under_way: dict[asyncio.Task[None], frozenset[int]] = {}

    async def start(self, partitions: frozenset[int], work: Coroutine[Any, Any, None]) -> None:
        """Returns once `work` has begun: there is a lane, and what was begun on these partitions has ended."""
        try:
            while len(self._under_way) >= self._count or any(map(partitions.intersection, self._under_way.values())):
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                self._forget_done()
        except asyncio.CancelledError:
            work.close()
            raise
        self._under_way[asyncio.create_task(work)] = partitions

    async def cancel(self) -> None:
        """Ends what is under way, and waits for it."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()

    def _forget_done(self) -> None:
        for task in [task for task in self._under_way if task.done()]:
            del self._under_way[task]
