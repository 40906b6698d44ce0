"""Replays recent dead letters, as `billing replay --failed` does, about every BILLING_RETRY_FAILED_EVERY_S seconds."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from recovery.replay.events import failed_filter
from recovery.replay.letters import ReplayReport, replay_letters
from schemas.errors import BillingError
from schemas.rate import RateLimit
from schemas.settings import Settings
from sinks.postgres.audit_log import ActorRole, AuditEntry
from sinks.postgres.audited import recorded
from sinks.postgres.dead_letter_index import DeadLetterIndex, IndexedLetter

log = structlog.get_logger(__name__)

BY = "schedule"
_PER_SECOND = 20.0
"""Events per second. A low rate, so that retries do not delay incoming events."""


@dataclass(slots=True)
class RetryFailed:
    """Retries at intervals until cancelled. With several schedulers one replays at a time; the rest find no letters."""

    settings: Settings
    last: str = "not yet"

    def note(self) -> str:
        """Returns the result of the last retry, for /readyz."""
        return self.last

    async def run(self) -> None:
        every = self.settings.retry_failed_pause_s
        while True:
            # Random, so that schedulers started together do not compete for the lock each time.
            await asyncio.sleep(every * random.uniform(0.8, 1.2))  # noqa: S311  # no secret
            await self.turn()

    async def turn(self) -> None:
        """Runs one retry. Errors are logged; letters that were not replayed stay open for the next retry."""
        try:
            async with DeadLetterIndex.open(self.settings.database_url, application="billing-scheduler") as letters:
                found = await letters.find(failed_filter(datetime.now(UTC)))
                report = await self._replay(letters, found) if found else ReplayReport()
        except BillingError as error:
            self.last = f"{type(error).__name__}: {error}"
            log.warning("failed.retry_later", action="failed.retry_later", error=self.last)
        except Exception as error:
            # A bug in a retry must not end all later ones without a word.
            self.last = f"{type(error).__name__}, see failed.bug in the log"
            log.exception("failed.bug", action="failed.bug")
        else:
            self.last = f"{report.replayed} replayed at {datetime.now(UTC):%F %T}"
            if report.replayed or report.gone:
                log.info("failed.replayed", action="failed.replayed", events=report.replayed, gone=report.gone)

    async def _replay(self, letters: DeadLetterIndex, found: list[IndexedLetter]) -> ReplayReport:
        entry = AuditEntry(who=BY, role=ActorRole.SCHEDULE, action="dead.replay", filter={"failed_within": "24 h"})
        async with recorded(self.settings.database_url, entry) as noted:
            report = await replay_letters(self.settings, letters, found, RateLimit(_PER_SECOND), BY)
            noted.count = report.replayed
        return report
