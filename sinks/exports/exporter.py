"""Makes the ordered export archives and deletes expired ones. Runs as a loop in the dispatcher process.

Exports are not urgent, so the loop polls every few seconds. A failed archive is retried with growing pauses and then
marked as failed, without affecting other archives. A failed deletion is retried without limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from prometheus_client import CollectorRegistry, Counter

from schemas.errors import StoreUnavailable
from schemas.export import ExportStatus
from sinks.exports.archive import write_archive
from sinks.exports.orders import CLAIM, ExportOrder, ExportOrders
from sinks.exports.storage import Storage
from sinks.postgres.failures import classified

log = structlog.get_logger(__name__)

Clock = Callable[[], datetime]
"""Returns the current time in UTC."""

TRIES = 8
"""With the pauses below, the last try is about 18 hours after the first."""
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=6)

_WORK_S = CLAIM.total_seconds() / 2
_IN_MEMORY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and limits of the loop, in seconds of real time."""

    poll_s: float = 3.0
    stuck_s: float = _WORK_S + 300.0


class Exporter:
    """Processes orders with `run` until stopped. `trouble` and `stuck` report problems."""

    def __init__(
        self,
        orders: ExportOrders,
        storage: Storage,
        *,
        clock: Clock,
        registry: CollectorRegistry | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._orders = orders
        self._storage = storage
        self._clock = clock
        self._pace = pace or Pace()
        self._stopping = asyncio.Event()
        self._trouble: str | None = None
        self._progress_at = time.monotonic()
        self._settled = Counter(
            "billing_exports_settled", "Processed export orders, by outcome.", ["outcome"], registry=registry
        )

    def stop(self) -> None:
        """Finish the current order and return from `run`."""
        self._stopping.set()

    def trouble(self) -> str | None:
        """Return why the orders cannot be read, or None."""
        return self._trouble

    def stuck(self) -> str | None:
        """Return the reason why this process must be restarted, or None."""
        idle = time.monotonic() - self._progress_at
        return f"the exporter has made no progress for {idle:.0f} s" if idle > self._pace.stuck_s else None

    async def run(self) -> None:
        """Process orders until `stop`."""
        while not self._stopping.is_set():
            self._progress_at = time.monotonic()
            try:
                is_busy = await self.work()
                self._trouble = None
            except StoreUnavailable as error:
                is_busy, self._trouble = False, str(error)
                log.warning("the orders cannot be read", action="export.store_unavailable", error=str(error))
            if not is_busy:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._pace.poll_s)

    async def work(self) -> bool:
        """Process one due order; return whether there was one. Raises StoreUnavailable."""
        order = await self._orders.claim(self._clock())
        if order is None:
            return False
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_WORK_S):
                if order.status is ExportStatus.WORKING and order.location is not None:
                    outcome = await self._make(order, order.location)
                else:
                    outcome = await self._delete(order)
        except StoreUnavailable:
            raise  # no result is stored: the order is due again when its claim expires
        except Exception as error:
            # An object store's library can raise any exception. One failed archive must not stop the loop.
            log.exception("an export failed", action="export.attempt_failed", export=order.key)
            outcome = await self._again(order, f"{type(error).__name__}: {error}")
        self._settled.labels(outcome).inc()
        log.info(
            f"export.{outcome}",
            action=f"export.{outcome}",
            export=order.key,
            customer=order.customer_id,
            account=order.account,
            attempt=order.attempts,
            ms=round((time.perf_counter() - started) * 1000, 1),
        )
        return True

    async def _make(self, order: ExportOrder, location: str) -> str:
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as file:
            with classified():
                async with self._orders.pool.acquire() as connection:
                    await write_archive(
                        connection,
                        file,
                        account=order.account,
                        customer_id=order.customer_id,
                        organization_id=order.organization_id,
                    )
            file.seek(0)
            written = await asyncio.to_thread(self._storage.put, location, file)
        if await self._orders.done(order, self._clock(), written.size, written.sha256):
            return "done"
        await asyncio.to_thread(self._storage.delete, location)
        return "not_wanted"

    async def _delete(self, order: ExportOrder) -> str:
        if order.location is not None:
            await asyncio.to_thread(self._storage.delete, order.location)
        await self._orders.deleted(order)
        return "deleted"

    async def _again(self, order: ExportOrder, reason: str) -> str:
        is_last = order.attempts >= TRIES and order.status is ExportStatus.WORKING
        if is_last and order.location is not None and await self._is_deleted(order.location):
            await self._orders.fail(order, reason)
            return "failed"
        await self._orders.later(order, self._clock() + pause_after(order.attempts), reason)
        return "retried"

    async def _is_deleted(self, location: str) -> bool:
        try:
            await asyncio.to_thread(self._storage.delete, location)
        except Exception:
            # The partial file may contain personal data, so the order stays open until the file is deleted.
            log.exception("the partial file of a failed export cannot be deleted", action="export.not_deleted")
            return False
        return True


def pause_after(tries: int) -> timedelta:
    """Return the pause after this many tries (1 or more): 1, 4, 16, 64, 256 minutes, then always 6 hours."""
    return min(_FIRST_PAUSE * int(4 ** min(tries - 1, 10)), _LONGEST_PAUSE)
