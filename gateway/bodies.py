"""Reads request bodies, with limits on size, on time, and on the memory of all bodies together (A6)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from schemas.errors import BillingError


class BodyRefused(BillingError):
    """The body was not read completely. The connection is closed after these errors."""


class BodyTooLarge(BodyRefused):
    """The body is larger than the limit."""


class BodyTooSlow(BodyRefused):
    """The body did not arrive in time."""


class BodyBroken(BodyRefused):
    """The body ended early or its framing is broken."""


class TooManyChunks(BodyRefused):
    """The body comes in more chunks than the limit: each costs time, whatever its size."""


class TooManyBodies(BodyRefused):
    """The bodies held in memory have reached their common limit, or that of their client."""


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """Limits: bytes of one body, seconds to read it, HTTP chunks, bytes in memory together and of one client.

    Bodies above `small` bytes use at most three quarters of the last two, so that events, which are smaller, get in
    while someone sends large bodies.
    """

    limit: int = 1024 * 1024
    within_s: float = 10.0
    chunks: int = 2048
    together: int = 128 * 1024 * 1024
    per_client: int = 32 * 1024 * 1024
    small: int = 64 * 1024

    def admits(self, held: int, bound: int, size: int) -> bool:
        """Returns whether `held` bytes are within the bound that applies to a body of `size` bytes."""
        return held <= (bound if size <= self.small else bound * 3 // 4)


class Bodies:
    """Reads bodies and counts the bytes in memory.

    Bytes are counted as they arrive, not by Content-Length: announcing a length costs the sender nothing.
    """

    def __init__(self, bounds: BodyBounds) -> None:
        self._bounds = bounds
        self._held = 0
        self._by_client: dict[str, int] = {}

    @property
    def held(self) -> int:
        """Bytes of all bodies that were read and not yet released."""
        return self._held

    async def read(self, request: web.Request, client: str = "") -> bytes:
        """Returns the raw body as sent. Raises BodyRefused.

        Call `release(body, client)` when done; not after BodyRefused.
        """
        if (request.content_length or 0) > self._bounds.limit:
            raise BodyTooLarge
        if request.content.is_eof():  # most bodies arrive with the head, and then a timer is a needless cost
            return await self._read(request, client)
        try:
            async with asyncio.timeout(self._bounds.within_s):
                return await self._read(request, client)
        except TimeoutError:
            raise BodyTooSlow from None

    def release(self, body: bytes, client: str = "") -> None:
        """Stops counting the bytes of `body`."""
        self._count(client, -len(body))

    async def _read(self, request: web.Request, client: str) -> bytes:
        chunks: list[bytes] = []
        size = http_chunks = 0
        is_whole = False
        try:
            while not request.content.at_eof():
                # One HTTP chunk at most: an endless body of tiny ones is given up before its bytes are collected.
                chunk, is_end = await request.content.readchunk()
                http_chunks += is_end
                chunks.append(chunk)
                size += len(chunk)
                self._hold(client, len(chunk), size)
                if http_chunks > self._bounds.chunks:
                    raise TooManyChunks
            is_whole = True
        except (web.RequestPayloadError, ConnectionError):
            raise BodyBroken from None
        finally:
            if not is_whole:
                self._count(client, -size)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _hold(self, client: str, more: int, size: int) -> None:
        bounds = self._bounds
        of_client = self._count(client, more)
        if size > bounds.limit:
            raise BodyTooLarge
        if not bounds.admits(self._held, bounds.together, size):
            raise TooManyBodies
        if not bounds.admits(of_client, bounds.per_client, size):
            raise TooManyBodies

    def _count(self, client: str, more: int) -> int:
        self._held += more
        of_client = self._by_client.get(client, 0) + more
        if of_client:
            self._by_client[client] = of_client
        else:
            self._by_client.pop(client, None)
        return of_client
