"""Reading a request's body, with a bound on its size, on its time, and on what all bodies together may hold (A6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from aiohttp import web

from gateway.metrics import Metrics


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
    """Hands out bodies and counts what is held; bytes are counted as they arrive, since a promised length costs
    the sender nothing."""

    def __init__(self, bounds: BodyBounds, metrics: Metrics) -> None:
        self._bounds = bounds
        self._held = 0
        self._gauge = metrics.body_bytes

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytes]:
        """The raw body, as sent. Raises BodyRefused."""
        if (request.content_length or 0) > self._bounds.limit:
            raise BodyTooLarge
        chunks: list[bytes] = []
        size = 0
        try:
            try:
                # Most come with their head, and a timer for what is here already is not free.
                async with nullcontext() if request.content.is_eof() else asyncio.timeout(self._bounds.within_s):
                    while chunk := await request.content.readany():
                        chunks.append(chunk)
                        size += len(chunk)
                        self._hold(len(chunk))
                        if size > self._bounds.limit:
                            raise BodyTooLarge
                        if self._held > self._bounds.together:
                            raise TooManyBodies
            except TimeoutError:
                raise BodyTooSlow from None
            except (web.RequestPayloadError, ConnectionError):
                raise BodyBroken from None
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._hold(-size)

    def _hold(self, size: int) -> None:
        self._held += size
        self._gauge.set(self._held)
