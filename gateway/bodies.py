"""Reads request bodies, with limits on size, on time, and on the memory of all bodies together (A6)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web


class BodyRefused(Exception):
    """The body was not read completely. The connection is closed after these errors."""


class BodyTooLarge(BodyRefused):
    """The body is larger than the limit."""


class BodyTooSlow(BodyRefused):
    """The body did not arrive in time."""


class BodyBroken(BodyRefused):
    """The body ended early or its framing is broken."""


class TooManyBodies(BodyRefused):
    """The bodies held in memory have reached their common limit."""


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """Limits: bytes of one body, seconds to read it, bytes of all bodies in memory."""

    limit: int = 1024 * 1024
    within_s: float = 10.0
    together: int = 128 * 1024 * 1024


class Bodies:
    """Reads bodies and counts the bytes in memory.

    Bytes are counted as they arrive, not by Content-Length: announcing a length costs the sender nothing.
    """

    def __init__(self, bounds: BodyBounds) -> None:
        self._bounds = bounds
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes of all bodies that were read and not yet released."""
        return self._held

    async def read(self, request: web.Request) -> bytes:
        """Returns the raw body as sent. Raises BodyRefused. Call `release(body)` when done; not after BodyRefused."""
        if (request.content_length or 0) > self._bounds.limit:
            raise BodyTooLarge
        if request.content.is_eof():  # most bodies arrive with the head, and then a timer is a needless cost
            return await self._read(request)
        try:
            async with asyncio.timeout(self._bounds.within_s):
                return await self._read(request)
        except TimeoutError:
            raise BodyTooSlow from None

    def release(self, body: bytes) -> None:
        """Stops counting the bytes of `body`."""
        self._held -= len(body)

    async def _read(self, request: web.Request) -> bytes:
        chunks: list[bytes] = []
        size = 0
        is_whole = False
        try:
            while chunk := await request.content.readany():
                chunks.append(chunk)
                size += len(chunk)
                self._hold(len(chunk), size)
            is_whole = True
        except (web.RequestPayloadError, ConnectionError):
            raise BodyBroken from None
        finally:
            if not is_whole:
                self._held -= size
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _hold(self, more: int, size: int) -> None:
        self._held += more
        if size > self._bounds.limit:
            raise BodyTooLarge
        if self._held > self._bounds.together:
            raise TooManyBodies
