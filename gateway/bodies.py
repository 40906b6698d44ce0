"""Reading a request's body, with a bound on its size, on its time, and on what all bodies together may hold (A6)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web


class BodyRefused(Exception):
    """The body was not read to its end. Not one of them is followed by another request on that connection."""


class BodyTooLarge(BodyRefused):
    """The body is larger than the limit."""


class BodyTooSlow(BodyRefused):
    """The body did not arrive in time."""


class BodyBroken(BodyRefused):
    """The body ended early or its framing is broken."""


class TooManyBodies(BodyRefused):
    """All bodies being held have reached their common bound."""


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """Bytes of one body, seconds to read it, bytes of all bodies at once."""

    limit: int = 1024 * 1024
    within_s: float = 10.0
    together: int = 128 * 1024 * 1024


class Bodies:
    """Reads bodies and counts what is held; bytes are counted as they arrive, since a promised length costs the
    sender nothing."""

    def __init__(self, bounds: BodyBounds) -> None:
        self._bounds = bounds
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes of all bodies read and not given back."""
        return self._held

    async def read(self, request: web.Request) -> bytes:
        """The raw body, as sent, to be given back by `release`. Raises BodyRefused, and then there is nothing to."""
        if (request.content_length or 0) > self._bounds.limit:
            raise BodyTooLarge
        if request.content.is_eof():  # most come with their head, and a timer for what is here already is not free
            return await self._read(request)
        try:
            async with asyncio.timeout(self._bounds.within_s):
                return await self._read(request)
        except TimeoutError:
            raise BodyTooSlow from None

    def release(self, body: bytes) -> None:
        """Its bytes are held no more."""
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
