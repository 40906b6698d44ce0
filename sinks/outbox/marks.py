"""Stores the results of deliveries that end at about the same time by one statement and one commit.

Each lane waits for its own result, so a crash repeats at most one delivery of each lane, as if every result had a
statement of its own. While a statement runs, further results gather for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.errors import StoreRefused, StoreUnavailable

K = TypeVar("K")
M = TypeVar("M")


@dataclass(slots=True, eq=False)
class _Batch(Generic[M]):
    marks: dict[str, M] = field(default_factory=dict)
    kept: Collection[str] | None = None
    error: StoreUnavailable | StoreRefused | None = None


class Marks(Generic[K, M]):
    """Results by the key of their rows. `store(kind, marks)` stores those of one kind and returns the kept keys."""

    def __init__(self, store: Callable[[K, Collection[M]], Awaitable[Collection[str]]]) -> None:
        self._store = store
        self._open: dict[K, _Batch[M]] = {}
        self._storing = asyncio.Lock()

    async def add(self, kind: K, key: str, mark: M) -> bool:
        """Store the result. Returns whether it was kept. Raises StoreUnavailable, StoreRefused."""
        batch = self._open.setdefault(kind, _Batch())
        batch.marks[key] = mark
        async with self._storing:  # the first that enters stores the results of all that wait
            if batch.kept is None and batch.error is None:
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
