"""Makes the ordered export archives and deletes expired ones, as one lane of the dispatcher process.

A failed archive is retried with growing pauses and then marked as failed, without affecting other archives. A failed
deletion is retried without limit.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import structlog
from prometheus_client import CollectorRegistry

from schemas.errors import StoreUnavailable
from schemas.export import ExportStatus
from schemas.timing import Clock, Timetable
from sinks.exports.archive import write_archive
from sinks.exports.orders import CLAIM, ExportOrder, ExportOrders
from sinks.exports.storage import Storage
from sinks.outbox.loop import OutboxLoop
from sinks.outbox.metrics import LoopMetrics
from sinks.outbox.pace import LoopPace
from sinks.outbox.verdicts import Done, Failed, RetryAt, Verdict, Withheld
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.outboxes import EXPORTS

log = structlog.get_logger(__name__)

TRIES = 8
"""With the pauses below, the last try is about 18 hours after the first."""
TIMETABLE = Timetable(first=timedelta(minutes=1), factor=4, tries=TRIES, longest=timedelta(hours=6))

_WORK_S = CLAIM.total_seconds() / 2
_IN_MEMORY_BYTES = 8 * 1024 * 1024


class Exporter(OutboxLoop[ExportOrder]):
    """Processes orders with `run` until stopped, one at a time."""

    action = "export"
    store_check, service_check, lanes_check = "export_orders", None, "exporter"
    row_action = "export."
    down_action, up_action = "export.paused", "export.resumed"

    def __init__(
        self,
        orders: ExportOrders,
        storage: Storage,
        payloads: PayloadArchive,
        *,
        clock: Clock,
        registry: CollectorRegistry | None = None,
        pace: LoopPace | None = None,
    ) -> None:
        metrics = LoopMetrics(EXPORTS, registry or CollectorRegistry(), noun="export orders")
        super().__init__(orders, metrics, clock=clock, pace=pace or LoopPace(stuck_s=_WORK_S + 300.0), lanes=1)
        self._storage = storage
        self._payloads = payloads

    async def deliver(self, row: ExportOrder, _lane: int) -> Verdict:
        try:
            async with asyncio.timeout(_WORK_S):
                if row.status is ExportStatus.WORKING and row.location is not None:
                    return await self._make(row, row.location)
                return await self._delete(row)
        except StoreUnavailable:
            raise  # no result is stored: the order is due again when its claim expires
        except Exception as error:
            # An object store's library can raise any exception. One failed archive must not stop the loop.
            log.exception("an export failed", action="export.attempt_failed", export=row.key)
            return await self._again(row, f"{type(error).__name__}: {error}")

    def leaves(self, row: ExportOrder) -> bool:
        """An archive is made for the customer. The deletion of one is not held."""
        return row.status is ExportStatus.WORKING

    async def hold(self, row: ExportOrder, _lane: int) -> Verdict:
        verdict = await super().hold(row, _lane)
        return replace(verdict, columns={"location": None}) if isinstance(verdict, Withheld) else verdict

    def fields(self, row: ExportOrder) -> Mapping[str, object]:
        return {"event_id": row.event_id, "export": row.key, "customer": row.customer_id, "account": row.account}

    async def lost(self, row: ExportOrder, verdict: Verdict) -> str | None:
        """Delete the archive: the customer was erased while it was made, or the claim has expired."""
        if not isinstance(verdict, Done) or row.status is not ExportStatus.WORKING or row.location is None:
            return None
        await asyncio.to_thread(self._storage.delete, row.location)
        return "not_wanted"

    async def _make(self, order: ExportOrder, location: str) -> Verdict:
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as file:
            async with self._claims.connection() as connection:
                await write_archive(
                    connection,
                    file,
                    self._payloads,
                    account=order.account,
                    customer_id=order.customer_id,
                    organization_id=order.organization_id,
                )
            file.seek(0)
            written = await asyncio.to_thread(self._storage.put, location, file)
        return Done(columns={"bytes": written.size, "sha256": written.sha256})

    async def _delete(self, order: ExportOrder) -> Verdict:
        if order.location is not None:
            await asyncio.to_thread(self._storage.delete, order.location)
        gone = {"location": None, "bytes": None, "sha256": None}
        return Done(columns=gone, status=ExportStatus.DELETED, outcome="deleted")

    async def _again(self, order: ExportOrder, reason: str) -> Verdict:
        is_last = order.attempts >= TRIES and order.status is ExportStatus.WORKING
        if is_last and order.location is not None and await self._is_deleted(order.location):
            return Failed(reason, columns={"location": None})
        return RetryAt(TIMETABLE.pause(order.attempts, 0.5), reason)

    async def _is_deleted(self, location: str) -> bool:
        try:
            await asyncio.to_thread(self._storage.delete, location)
        except Exception:
            # The partial file may contain personal data, so the order stays open until the file is deleted.
            log.exception("the partial file of a failed export cannot be deleted", action="export.not_deleted")
            return False
        return True
