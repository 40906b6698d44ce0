"""Reads the state and the bytes of export archives for the gateway's download page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from schemas.errors import StoreUnavailable
from schemas.export import StoredExport
from sinks.exports.orders import ExportOrders
from sinks.exports.storage import CHUNK_BYTES, Storage


class ExportReader:
    """Reads the archives that the exporter wrote."""

    def __init__(self, orders: ExportOrders, storage: Storage) -> None:
        self._orders = orders
        self._storage = storage

    async def find(self, export_id: str) -> StoredExport | None:
        """Return the export's state, or None if there is no such export. Raises StoreUnavailable."""
        return await self._orders.find(export_id)

    async def chunks(self, export: StoredExport) -> AsyncGenerator[bytes, None]:
        """Yield the archive in chunks. Raises StoreUnavailable if it cannot be read, even after the first chunk."""
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
            # An object store's library can raise any exception; each means that the archive is not available now.
            raise StoreUnavailable(f"the archive cannot be read: {type(error).__name__}") from error
