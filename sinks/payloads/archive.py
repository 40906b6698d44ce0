"""The archive of payloads that `billing prune` ends: what it keeps, and what reads it (docs/operations.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import date

from schemas.payloads import ArchiveAway, KeptPayload, PayloadLost
from sinks.payloads.files import PayloadFiles
from sinks.payloads.sealing import Unreadable, seal, unseal


class PayloadArchive:
    """Writes and reads archived payloads. Without an address (BILLING_PAYLOADS_URL) nothing is kept."""

    def __init__(self, url: str) -> None:
        """Raises InvalidSettings."""
        self._files = PayloadFiles(url) if url else None

    @property
    def is_on(self) -> bool:
        return self._files is not None

    async def keep(self, home: str, day: date, payloads: Sequence[tuple[str, str]]) -> list[KeptPayload]:
        """Writes payloads by event id; when it returns they are durable. `home` is the id of their database.

        Raises ArchiveAway, and leaves nothing then.
        """
        return await asyncio.to_thread(self._keep, home, day, payloads)

    async def take_back(self, kept: Sequence[KeptPayload]) -> None:
        """Deletes the file of payloads whose keys were not stored. Raises ArchiveAway."""
        if kept:
            await asyncio.to_thread(self._delete, kept[0].place)

    async def delete_before(self, home: str, day: date) -> int:
        """Deletes this database's files of earlier days, and returns how many days. Raises ArchiveAway."""
        files = self._reached()
        try:
            return await asyncio.to_thread(files.delete_before, home, day)
        except Exception as error:
            raise _away(error) from error

    async def read(self, event_id: str, place: str, key: bytes) -> str:
        """Returns a payload. Raises PayloadLost if its file is missing or damaged, ArchiveAway if none can be read."""
        return await asyncio.to_thread(self._read, event_id, place, key)

    def _read(self, event_id: str, place: str, key: bytes) -> str:
        files = self._reached()
        try:
            try:
                return unseal(event_id, key, files.read(place))
            except FileNotFoundError:
                if not files.has_home(place):
                    raise
                raise PayloadLost(f"BILLING_PAYLOADS_URL has no file {place.partition(':')[0]}") from None
        except Unreadable as error:
            raise PayloadLost(str(error)) from error
        except FileNotFoundError as error:
            raise ArchiveAway(
                f"BILLING_PAYLOADS_URL has no payloads of this database: no file {place.partition(':')[0]}"
            ) from error
        except ArchiveAway:
            raise
        except Exception as error:
            raise _away(error) from error

    def _keep(self, home: str, day: date, payloads: Sequence[tuple[str, str]]) -> list[KeptPayload]:
        files, keys = self._reached(), list[bytes]()

        def lines() -> Iterator[bytes]:
            """Seals one at a time, so that memory holds no second copy of the batch."""
            for one in payloads:
                sealed = seal(*one)
                keys.append(sealed.key)
                yield sealed.line

        try:
            places = files.write(home, day, lines())
        except Exception as error:
            raise _away(error) from error
        return [
            KeptPayload(event_id, place, key) for (event_id, _), place, key in zip(payloads, places, keys, strict=True)
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
