"""The archive of payloads that `billing prune` ends: what it keeps, and what reads it (docs/operations.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date

from schemas.errors import ServiceUnavailable
from schemas.payloads import KeptPayload
from sinks.payloads.files import PayloadFiles
from sinks.payloads.sealing import Unreadable, seal, unseal


class ArchiveAway(ServiceUnavailable):
    """The archive of payloads cannot be written or read now, or its address is not set."""


class PayloadArchive:
    """Writes and reads archived payloads. Without an address (BILLING_PAYLOADS_URL) nothing is kept."""

    def __init__(self, url: str) -> None:
        """Raises InvalidSettings."""
        self._files = PayloadFiles(url) if url else None

    @property
    def is_on(self) -> bool:
        return self._files is not None

    async def keep(self, day: date, payloads: Sequence[tuple[str, str]]) -> list[KeptPayload]:
        """Writes payloads by event id; when it returns they are durable. Raises ArchiveAway."""
        return await asyncio.to_thread(self._keep, day, payloads)

    async def take_back(self, kept: Sequence[KeptPayload]) -> None:
        """Deletes the file of payloads whose keys were not stored. Raises ArchiveAway."""
        if kept:
            await asyncio.to_thread(self._delete, kept[0].place)

    async def delete_before(self, day: date) -> int:
        """Deletes the files of earlier days, and returns how many days. Raises ArchiveAway."""
        files = self._reached()
        try:
            return await asyncio.to_thread(files.delete_before, day)
        except Exception as error:
            raise _away(error) from error

    async def read(self, event_id: str, place: str, key: bytes) -> str:
        """Returns a payload. Raises ArchiveAway, also if the file is missing or damaged."""
        files = self._reached()
        try:
            return unseal(event_id, key, await asyncio.to_thread(files.read, place))
        except Unreadable as error:
            raise ArchiveAway(str(error)) from error
        except FileNotFoundError as error:
            raise ArchiveAway(f"BILLING_PAYLOADS_URL has no file {place.partition(':')[0]}") from error
        except Exception as error:
            raise _away(error) from error

    def _keep(self, day: date, payloads: Sequence[tuple[str, str]]) -> list[KeptPayload]:
        files, sealed = self._reached(), [seal(*one) for one in payloads]
        try:
            places = files.write(day, [one.line for one in sealed])
        except Exception as error:
            raise _away(error) from error
        return [
            KeptPayload(event_id, place, one.key)
            for (event_id, _), place, one in zip(payloads, places, sealed, strict=True)
        ]

    def _delete(self, place: str) -> None:
        try:
            self._reached().delete(place)
        except Exception as error:
            raise _away(error) from error

    def _reached(self) -> PayloadFiles:
        if self._files is None:
            raise ArchiveAway("payloads are in an archive, and BILLING_PAYLOADS_URL is not set")
        return self._files


def _away(error: Exception) -> ArchiveAway:
    """An object store's library can raise any exception. Its text may contain the address, and that a key."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return ArchiveAway(f"the archive of payloads (BILLING_PAYLOADS_URL): {text}")
