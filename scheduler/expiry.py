"""Counts the unread records that Kafka will delete in half of its retention, also while no worker runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from prometheus_client import Gauge

from eventlog.expiry import old_unread
from schemas.errors import LogUnavailable
from schemas.settings import InvalidSettings, Settings

log = structlog.get_logger(__name__)

EVERY_S = 60.0

OLD_UNREAD = Gauge(
    "billing_unread_old_records", "Records past half of the topic's retention that a group has not read; NaN: unknown"
)


class ExpiryWatch:
    """Looks every minute until cancelled."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime], every_s: float = EVERY_S) -> None:
        self._settings = settings
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> None:
        """Runs until cancelled. An error makes the gauge unknown."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        try:
            OLD_UNREAD.set(await asyncio.to_thread(old_unread, self._settings, self._clock()))
        except (LogUnavailable, InvalidSettings) as error:
            OLD_UNREAD.set(float("nan"))
            log.warning("expiry.unknown", action="expiry.unknown", error=str(error))
        except Exception:
            # A bug must not leave the last value in the gauge for good.
            OLD_UNREAD.set(float("nan"))
            log.exception("expiry.bug", action="expiry.bug")
