"""Limits how many calls, or appended events, there are per second."""

from __future__ import annotations

import asyncio
import time


class RateLimit:
    """A token bucket: `per_second` on average, bursts of one second's worth (at least 1). Waits in order.

    `per_second` None means no limit.
    """

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._size = max(per_second or 0.0, 1.0)
        self._tokens = self._size
        self._filled_at = time.monotonic()
        self._turn = asyncio.Lock()

    def burst(self, most: int) -> int:
        """Returns how many to do at once: one second's worth, at least 1 and at most `most`."""
        return most if self._per_second is None else max(1, min(most, int(self._per_second)))

    async def take(self, count: int = 1) -> None:
        """Waits until `count` more are allowed, which is at most `burst`."""
        if self._per_second is None:
            return
        async with self._turn:
            missing = count - self._refill(self._per_second)
            if missing > 0:
                await asyncio.sleep(missing / self._per_second)
                self._refill(self._per_second)
            self._tokens -= count  # may be slightly below 0 if the sleep was too short; the next call then waits longer

    def _refill(self, per_second: float) -> float:
        now = time.monotonic()
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * per_second)
        self._filled_at = now
        return self._tokens
