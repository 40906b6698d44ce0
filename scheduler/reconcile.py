"""Runs a reconciliation every BILLING_RECONCILE_EVERY_S seconds, in the first of the schedulers to start it.

It uses its own connections, and its errors are logged and counted here, so it never affects the timers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from prometheus_client import Counter, Gauge

from recovery.reconcile.events import AnotherIsAtIt, Asked
from recovery.reconcile.report import ReconcileReport
from recovery.reconcile.runs import awaited_since, last_end
from recovery.reconcile.wiring import reconciler
from recovery.stripe_lists import accounts_asked
from schemas.errors import BillingError
from schemas.settings import Config, InvalidSettings, Settings
from sinks.postgres.pool import reading
from sinks.stripe_api.api import ApiTrouble

log = structlog.get_logger(__name__)

JITTER = 0.1
"""Up to this fraction of the pause is added, so that installations do not all call Stripe at the same time."""
RETRY = timedelta(minutes=5)
"""Pause after an error, and while another reconciliation is running."""

MISSING = Counter("billing_reconcile_missing", "Events that never arrived until a scheduled reconciliation found them")
RUNS = Counter("billing_reconcile_runs", "Scheduled reconciliations, by outcome", ["outcome"])
LAST_END = Gauge(
    "billing_reconcile_last_end_seconds",
    "When the last reconciliation ended (before the first: since when it is due), in epoch seconds",
)


class ReconcileSchedule:
    """Starts reconciliations until cancelled. `every` is the time from the end of a run to the start of the next."""

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
        self._settings = settings
        self._config = config
        self._every = every
        self._clock = clock
        self._retry = retry
        self._chance = chance
        self._trouble: str | None = None

    def note(self) -> str:
        """Returns "ok" or the last error, for /readyz."""
        return self._trouble or "ok"

    async def run(self) -> None:
        """Runs until cancelled. Raises nothing except CancelledError."""
        jitter = self._every * JITTER * self._chance()
        while True:
            try:
                left = await self._time_left(jitter)
                if left <= timedelta(0):
                    left = await self._reconcile()
                    jitter = self._every * JITTER * self._chance()
            except (BillingError, ApiTrouble, InvalidSettings) as error:
                left = self._failed(f"{type(error).__name__}: {error}")
            except AnotherIsAtIt:
                left = self._retry
            except Exception as error:
                # A bug in a reconciliation must not end the process that fires the timers.
                log.exception("reconcile.failed", action="reconcile.failed")
                left = self._failed(f"{type(error).__name__}")
            await asyncio.sleep(max(left, timedelta(0)).total_seconds())

    async def _time_left(self, jitter: timedelta) -> timedelta:
        async with reading(self._settings.database_url) as connection:
            ended = await last_end(connection)
            if ended is None and (since := await awaited_since(connection)) is not None:
                LAST_END.set(since.timestamp())  # so that the alarm also fires if there was never a run
        if ended is None:
            return timedelta(0)
        LAST_END.set(ended.timestamp())
        return ended + self._every + jitter - self._clock()

    async def _reconcile(self) -> timedelta:
        """Runs one reconciliation. Returns the minimum pause after it."""
        has_connect = any(endpoint.connect for endpoint in self._config.endpoints.values())
        async with reconciler(self._settings, self._config, clock=self._clock) as wired:
            accounts = await accounts_asked(wired.lists, [], all_accounts=has_connect)
            reports = await wired.run(Asked(), accounts)
        return self._note(reports)

    def _note(self, reports: list[ReconcileReport]) -> timedelta:
        MISSING.inc(sum(report.fed for report in reports))
        if troubles := [report.trouble for report in reports if report.trouble]:
            return self._failed(f"{len(troubles)} of {len(reports)} accounts: {troubles[0]}")
        RUNS.labels("done").inc()
        self._trouble = None
        return timedelta(0)

    def _failed(self, reason: str) -> timedelta:
        RUNS.labels("failed").inc()
        self._trouble = reason
        log.warning("reconcile.retry", action="reconcile.retry", error=reason, wait_s=self._retry.total_seconds())
        return self._retry
