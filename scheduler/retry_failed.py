"""In the scheduler, if BILLING_RETRY_FAILED_EVERY_S asks for it: `billing replay --failed`, now and then."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from recovery.replay.events import failed_filter
from recovery.replay.letters import Rate, replay_letters
from schemas.errors import BillingError
from schemas.settings import Settings
from sinks.postgres.dead_letter_index import DeadLetterIndex

log = structlog.get_logger(__name__)

BY = "schedule"
_PER_SECOND = 20.0
"""A retry must not crowd out what comes in."""


@dataclass(slots=True)
class RetryFailed:
    """`run` until cancelled. With several schedulers one replays at a time, and the others find nothing left."""

    settings: Settings
    last: str = "not yet"

    def note(self) -> str:
        """For /readyz: what came of the last turn."""
        return self.last

    async def run(self) -> None:
        every = self.settings.retry_failed_every_s
        while True:
            # Spread, so that schedulers started together do not meet at the lock each time.
            await asyncio.sleep(every * random.uniform(0.8, 1.2))  # noqa: S311  # no secret
            await self.turn()

    async def turn(self) -> None:
        """One retry. Trouble is said and waited out: what was not replayed is open still."""
        try:
            async with DeadLetterIndex.open(self.settings.database_url, application="billing-scheduler") as letters:
                found = await letters.find(failed_filter(datetime.now(UTC)))
                report = await replay_letters(self.settings, letters, found, Rate(_PER_SECOND), BY)
        except BillingError as error:
            self.last = f"{type(error).__name__}: {error}"
            log.warning("failed.retry_later", action="failed.retry_later", error=self.last)
        else:
            self.last = f"{report.replayed} replayed at {datetime.now(UTC):%F %T}"
            if report.replayed or report.gone:
                log.info("failed.replayed", action="failed.replayed", events=report.replayed, gone=report.gone)
