"""Repeats a task at intervals, in the first of the schedulers to start it.

Its errors are logged and counted here, so it never affects the timers.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import ClassVar

import structlog
from prometheus_client import Counter

from schemas.errors import BillingError
from schemas.settings import Config, Settings

log = structlog.get_logger(__name__)

JITTER = 0.1
"""Up to this fraction of the pause is added, so that installations do not all call Stripe at the same time."""
RETRY = timedelta(minutes=5)
"""Pause after an error, and while another process is doing the same."""


class TurnTaken(BillingError):
    """Another process is doing the same task."""


class RepeatedTask(ABC):
    """Runs a task until cancelled. `every` is the time from the end of a run to the start of the next."""

    name: ClassVar[str]
    """Begins the actions of the log."""
    runs: ClassVar[Counter]
    """Counts runs by `outcome`: done or failed."""
    look: ClassVar[timedelta] = timedelta(days=1)
    """Longest pause until `time_left` is asked again."""

    def __init__(
        self,
        settings: Settings,
        config: Config,
        *,
        every: timedelta,
        clock: Callable[[], datetime],
        retry: timedelta = RETRY,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self.config = config
        self.every = every
        self.clock = clock
        self.retry = retry
        self._chance = chance
        self._trouble: str | None = None

    def note(self) -> str:
        """Returns "ok" or the last error, for /readyz."""
        return self._trouble or "ok"

    @property
    def has_connect(self) -> bool:
        """Whether an endpoint takes events of connected accounts."""
        return any(endpoint.connect for endpoint in self.config.endpoints.values())

    async def run(self) -> None:
        """Runs until cancelled. Raises nothing except CancelledError."""
        jitter = self._jitter()
        while True:
            try:
                left = await self.time_left(jitter)
                if left <= timedelta(0):
                    left = await self.work()
                    jitter = self._jitter()
                else:
                    left = min(left, self.look)
            except TurnTaken:
                left = self.retry
            except BillingError as error:
                left = self.failed(f"{type(error).__name__}: {error}")
            except Exception as error:
                # A bug in a task must not end the process that fires the timers.
                log.exception(f"{self.name}.failed", action=f"{self.name}.failed")
                left = self.failed(f"{type(error).__name__}")
            await asyncio.sleep(max(left, timedelta(0)).total_seconds())

    def _jitter(self) -> timedelta:
        return self.every * JITTER * self._chance()

    @abstractmethod
    async def time_left(self, jitter: timedelta) -> timedelta:
        """Returns how long to wait before the next question; zero or less: the task is due."""

    @abstractmethod
    async def work(self) -> timedelta:
        """Does the task once. Returns the minimum pause after it. Raises TurnTaken."""

    def done(self) -> timedelta:
        """Counts a run that succeeded. Returns the minimum pause after it."""
        self.runs.labels("done").inc()
        self._trouble = None
        return timedelta(0)

    def failed(self, reason: str) -> timedelta:
        """Counts a run that failed. Returns the pause before the next try."""
        self.runs.labels("failed").inc()
        self._trouble = reason
        action = f"{self.name}.retry"
        log.warning(action, action=action, error=reason, wait_s=self.retry.total_seconds())
        return self.retry
