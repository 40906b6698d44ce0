"""Before each call: not more of them a second than we allow ourselves, well below where Stripe says 429."""

from __future__ import annotations

import asyncio
import time


class RateLimit:
    """A token bucket: `per_second` on average, a burst of one second's worth (at least one). Waits in turn."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(per_second, 1.0)
        self._tokens = self._size
        self._filled_at = time.monotonic()
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Returns when one more call may be made."""
        async with self._turn:
            missing = 1.0 - self._refill()
            if missing > 0:
                await asyncio.sleep(missing / self._per_second)
                self._refill()
            self._tokens -= 1.0  # by a hair below zero where the sleep was that short; the next one waits for it

    def _refill(self) -> float:
        now = time.monotonic()
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return self._tokens
