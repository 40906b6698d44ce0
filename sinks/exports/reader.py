"""What the gateway asks about exports: whether one is there, and its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from schemas.errors import StoreUnavailable
from schemas.export import StoredExport
from sinks.exports.orders import ExportOrders
from sinks.exports.storage import CHUNK_BYTES, Storage


class ExportReader:
    """Reads what the exporter has written, from wherever it keeps it."""

    def __init__(self, orders: ExportOrders, storage: Storage) -> None:
        self._orders = orders
        self._storage = storage

    async def find(self, export_id: str) -> StoredExport | None:
        """Raises StoreUnavailable."""
        return await self._orders.find(export_id)

    async def chunks(self, export: StoredExport) -> AsyncGenerator[bytes, None]:
        """The archive, piece by piece. Raises StoreUnavailable before the first, or amid them, if it can't be read."""
        try:
            file = await asyncio.to_thread(self._storage.open, export.location or "")
            try:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield chunk
            finally:
                await asyncio.to_thread(file.close)
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except Exception as error:
            # The verdict: whatever an object store's library raises, the archive cannot be had now.
            raise StoreUnavailable(f"the archive cannot be read: {type(error).__name__}") from error
