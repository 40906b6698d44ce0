"""Limits guesses of passwords: ten wrong ones a minute by peer and name, two hashes at once, and a short queue.

A try is reserved before the first wait, so that many requests at once are not more than many in turn. Wrong tries lock
out no one else: other addresses and other names have their own count, and a peer has only a part of the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from schemas.errors import BillingError

MOST_WRONG, WITHIN_S = 10, 60.0
HASHES_AT_ONCE = 2
MOST_WAITING, MOST_OF_A_PEER = 32, 8
_MOST_KEPT = 10_000


class TooManyTries(BillingError):
    """Too many passwords were wrong lately, or are being checked now."""


class Tries:
    """Counts tries by peer and name. `clock` returns seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted: dict[tuple[str, str], list[float]] = {}
        self._waiting: Counter[str] = Counter()
        self._hashing = asyncio.Semaphore(HASHES_AT_ONCE)

    @asynccontextmanager
    async def reserved(self, peer: str, name: str) -> AsyncIterator[None]:
        """Counts a try, and waits until a hash may be computed. Raises TooManyTries, at once."""
        now, key = self._clock(), (peer, name)
        self._counted = {
            each: recent
            for each, times in self._counted.items()
            if (recent := [at for at in times if at > now - WITHIN_S])
        }
        is_full = self._waiting.total() >= MOST_WAITING or self._waiting[peer] >= MOST_OF_A_PEER
        if is_full or len(self._counted.get(key, ())) >= MOST_WRONG or len(self._counted) >= _MOST_KEPT:
            raise TooManyTries
        self._counted.setdefault(key, []).append(now)
        self._waiting[peer] += 1
        try:
            async with self._hashing:
                yield
        finally:
            self._waiting[peer] -= 1
            self._waiting = +self._waiting

    def forget(self, peer: str, name: str) -> None:
        """Takes back the newest try: its password was right."""
        if times := self._counted.get((peer, name)):
            times.pop()
