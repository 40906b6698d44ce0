"""Stores the results of deliveries that end at about the same time by one statement and one commit.

Each lane waits for its own result, so a crash repeats at most one delivery of each lane, as if every result had a
statement of its own. While a statement runs, further results gather for the next one; before it, those of deliveries
that are about to end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.errors import StoreRefused, StoreUnavailable

GATHER_S = 0.002
"""A result waits at most this long for those of deliveries in flight. A commit takes about as long."""

K = TypeVar("K")
M = TypeVar("M")


@dataclass(slots=True, eq=False)
class _Batch(Generic[M]):
    marks: dict[str, M] = field(default_factory=dict)
    kept: Collection[str] | None = None
    error: StoreUnavailable | StoreRefused | None = None


class Marks(Generic[K, M]):
    """Results by the key of their rows. `store(kind, marks)` stores those of one kind and returns the kept keys.

    `in_flight` returns the number of deliveries that have no result yet.
    """

    def __init__(
        self,
        store: Callable[[K, Collection[M]], Awaitable[Collection[str]]],
        in_flight: Callable[[], int] = lambda: 0,
    ) -> None:
        self._store = store
        self._in_flight = in_flight
        self._all_ended = asyncio.Event()
        self._open: dict[K, _Batch[M]] = {}
        self._storing = asyncio.Lock()

    async def add(self, kind: K, key: str, mark: M) -> bool:
        """Store the result. Returns whether it was kept. Raises StoreUnavailable, StoreRefused."""
        batch = self._open.setdefault(kind, _Batch())
        batch.marks[key] = mark
        if not self._in_flight():
            self._all_ended.set()
        async with self._storing:  # the first that enters stores the results of all that wait
            if batch.kept is None and batch.error is None:
                await self._gather()
                if self._open.get(kind) is batch:
                    del self._open[kind]
                try:
                    batch.kept = await self._store(kind, batch.marks.values())
                except (StoreUnavailable, StoreRefused) as error:
                    batch.error = error
        if batch.kept is not None:
            return key in batch.kept
        if isinstance(batch.error, StoreRefused) and len(batch.marks) > 1:  # because of another row, perhaps
            return key in await self._store(kind, [mark])
        raise batch.error or AssertionError("stored or not")

    async def _gather(self) -> None:
        """Wait until no delivery is in flight, at most for GATHER_S."""
        if self._in_flight():
            self._all_ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):  # `wait_for` would make a task
                    await self._all_ended.wait()
