"""Reads a page of a process's operations port."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

from schemas.errors import ServiceUnavailable


class PageUnavailable(ServiceUnavailable):
    """The process does not answer on its operations port."""


async def pages(url: str, count: int) -> list[Any]:
    """Return so many answers in JSON, each over a connection of its own. Raises PageUnavailable."""
    timeout = aiohttp.ClientTimeout(total=5.0)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session:
            return [await _page(session, url) for _ in range(count)]
    except (TimeoutError, aiohttp.ClientError, orjson.JSONDecodeError) as error:
        raise PageUnavailable(f"{url} does not answer: {error or type(error).__name__}") from None


async def _page(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as answer:
        answer.raise_for_status()
        return orjson.loads(await answer.read())
