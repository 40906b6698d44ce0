"""Counts open dead letters, waiting events and unknown prices at intervals, for the dispatcher's metrics."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Gauge
from pydantic import SecretStr
from sqlalchemy import text

from schemas.errors import StoreUnavailable
from sinks.postgres.failures import classified
from sinks.postgres.pool import reading

log = structlog.get_logger(__name__)

EVERY_S = 15.0

COUNTS = """
SELECT (SELECT count(*) FROM billing.dead_letters WHERE status = 'open') AS open_letters,
       (SELECT count(*) FROM billing.events WHERE outcome = 'waiting') AS waiting,
       (SELECT coalesce(extract(epoch FROM now() - min(received_at)), 0) FROM billing.events
        WHERE outcome = 'waiting') AS oldest_waiting,
       (SELECT count(DISTINCT price_id) FROM billing.subscriptions
        WHERE plan IS NULL AND price_id IS NOT NULL) AS unknown_prices,
       EXISTS (SELECT FROM billing.shadow WHERE ended_at IS NULL) AS is_shadow
"""


class StoreGauges:
    """Gauges about the whole database. Every dispatcher reports the same values: use the maximum, not the sum."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._letters = Gauge(
            "billing_dead_letters_open",
            "Dead letters that are open: not replayed, resolved or discarded.",
            registry=registry,
        )
        self._waiting = Gauge(
            "billing_events_waiting", "Events that wait for something they refer to.", registry=registry
        )
        self._oldest = Gauge(
            "billing_events_waiting_oldest_seconds",
            "How long the longest-waiting event has waited; 0 if no event waits.",
            registry=registry,
        )

        self._prices = Gauge(
            "billing_unknown_prices",
            "Prices of subscriptions that no plan of the config names.",
            registry=registry,
        )

        self._shadow = Gauge(
            "billing_shadow", "1 in shadow mode: nothing leaves the system, 0 otherwise.", registry=registry
        )

    async def run(self, url: SecretStr, *, every_s: float = EVERY_S) -> None:
        """Updates the gauges every `every_s` seconds until cancelled. They keep their values during an outage."""
        while True:
            try:
                await self.look(url)
            except StoreUnavailable as error:
                log.warning("store_gauges.retry", action="store_gauges.retry", error=str(error))
            await asyncio.sleep(every_s)

    async def look(self, url: SecretStr) -> None:
        """Updates the gauges once. Raises StoreUnavailable."""
        async with reading(url) as connection:
            with classified():
                row = (await connection.execute(text(COUNTS))).one()
        self._letters.set(row.open_letters)
        self._waiting.set(row.waiting)
        self._oldest.set(float(row.oldest_waiting))
        self._prices.set(row.unknown_prices)
        self._shadow.set(row.is_shadow)
