"""Limits the rate of requests to Stripe, well below the rate at which Stripe answers 429."""

from __future__ import annotations

import asyncio
import time


class RateLimit:
    """A token bucket: `per_second` calls on average, bursts of one second's calls (at least 1). Waits in order."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(per_second, 1.0)
        self._tokens = self._size
        self._filled_at = time.monotonic()
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Wait until one more call is allowed."""
        async with self._turn:
            missing = 1.0 - self._refill()
            if missing > 0:
                await asyncio.sleep(missing / self._per_second)
                self._refill()
            self._tokens -= 1.0  # may be slightly below 0 if the sleep was too short; the next call then waits longer

    def _refill(self) -> float:
        now = time.monotonic()
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return self._tokens
