"""Reads Stripe's lists page by page, for reconciliation. Each object keeps its original JSON text.

The SDK's parsed objects lose how Stripe wrote a number, but an event is appended to the log in its original form.
https://docs.stripe.com/api/pagination
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import structlog

from schemas.rate import RateLimit
from schemas.timing import Timetable
from sinks.stripe_api.api import ApiResponse, ApiTrouble, NoAnswer, Refusal, Request, StripeApi

log = structlog.get_logger(__name__)

PAGE = 100
"""Objects per page: Stripe's maximum."""

MAX_PAGE_BYTES = 64 * 1024 * 1024
"""Largest response for a client that lists: room for a hundred events of more than half a megabyte each."""

TIMETABLE = Timetable(first=timedelta(seconds=1), factor=2, tries=8)
"""Pauses of 1, 2, 4 … 64 seconds, or Stripe's Retry-After (an hour at most) if it is longer."""

_BLANK = " \t\r\n"
_DECODER = json.JSONDecoder()


class ListingBroken(ApiTrouble):
    """The list contains unexpected objects, or a page has no new objects although more should follow."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a list; `text` is its original JSON text."""

    object: dict[str, Any]
    text: str

    @property
    def id(self) -> str:
        found: str = self.object["id"]
        return found


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page. `as_of`, `request_id` and `api_version` are those of the response (sinks/stripe_api/api.py)."""

    items: list[Listed]
    has_more: bool
    as_of: datetime
    request_id: str | None
    api_version: str | None


class Lists:
    """Reads lists one page at a time within the rate limit. Retries temporary errors, then raises ApiTrouble.

    With `patience`, an error is raised once its next try would begin later than that after the request's first.
    """

    def __init__(
        self,
        api: StripeApi,
        rate: RateLimit,
        *,
        timetable: Timetable = TIMETABLE,
        patience: timedelta | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.mode = api.mode
        self._api = api
        self._rate = rate
        self._timetable = timetable
        self._patience_s = patience.total_seconds() if patience is not None else math.inf
        self._chance = chance

    async def pages(self, path: str, params: Mapping[str, Any], account: str = "") -> AsyncIterator[ListPage]:
        """Yield the pages of the list, newest objects first. Objects that were already returned are left out.

        `account` is a connected account, '' for the platform's own. Raises ApiTrouble.
        """
        seen: set[str] = set()
        after: dict[str, str] = {}
        while True:
            answer = await self._get(Request("GET", path, account, params={**params, "limit": PAGE, **after}))
            items, has_more = split(answer.text)
            fresh = list({item.id: item for item in items if item.id not in seen}.values())
            seen.update(item.id for item in fresh)
            if has_more and not fresh:
                raise ListingBroken(f"{path}: a page has no new objects, but has_more is true")
            yield ListPage(fresh, has_more, answer.as_of, answer.request_id, answer.api_version)
            if not has_more:
                return
            after = {"starting_after": items[-1].id}

    async def page(
        self, path: str, params: Mapping[str, Any], account: str = "", *, after: str | None = None, limit: int = PAGE
    ) -> ListPage:
        """Return the page after the object `after`, by default the first; nothing is remembered. Raises ApiTrouble."""
        start = {"starting_after": after} if after is not None else {}
        answer = await self._get(Request("GET", path, account, params={**params, "limit": limit, **start}))
        items, has_more = split(answer.text)
        if has_more and (not items or items[-1].id == after):
            raise ListingBroken(f"{path}: a page has no new objects, but has_more is true")
        return ListPage(items, has_more, answer.as_of, answer.request_id, answer.api_version)

    async def one(self, path: str, account: str = "") -> dict[str, Any]:
        """Return a single object, within the same limit and with the same retries. Raises ApiTrouble."""
        return (await self.get(path, account)).body

    async def get(self, path: str, account: str = "", params: Mapping[str, Any] = MappingProxyType({})) -> ApiResponse:
        """Return one object. Raises ApiTrouble; a Refusal with status 404 if Stripe does not know it."""
        return await self._get(Request("GET", path, account, params=params))

    async def _get(self, request: Request) -> ApiResponse:
        tries, now = 0, asyncio.get_running_loop().time
        latest = now() + self._patience_s
        while True:
            await self._rate.take()
            tries += 1
            try:
                return await self._api.call(request)
            except ApiTrouble as error:
                pause = self._timetable.pause_after(tries, self._chance())
                if pause is None or not error.is_temporary:
                    raise
                wait = max(pause, error.retry_after) if isinstance(error, Refusal) else pause
                if now() + wait.total_seconds() > latest:
                    raise
                log.warning(
                    "stripe.list_retry",
                    action="stripe.list_retry",
                    path=request.path,
                    account=request.account,
                    error=str(error),
                    attempt=tries,
                    wait_s=round(wait.total_seconds(), 1),
                )
            await asyncio.sleep(wait.total_seconds())


def split(text: str) -> tuple[list[Listed], bool]:
    """Return the objects in a list object's `data`, and its `has_more`. Raises NoAnswer if `text` is not a list."""
    try:
        members = _members(text)
        has_more = bool(_DECODER.raw_decode(text, members["has_more"])[0])
        items = _elements(text, members["data"])
    except (KeyError, IndexError, ValueError, RecursionError):  # JSONDecodeError is a ValueError
        raise NoAnswer("the response is not a Stripe list") from None
    if not all(isinstance(item.object, dict) and isinstance(item.object.get("id"), str) for item in items):
        raise NoAnswer("the list contains something other than objects with ids")
    return items, has_more


def _members(text: str) -> dict[str, int]:
    """Return the position in `text` at which the value of each member of the object starts."""
    found: dict[str, int] = {}
    at = _after(text, 0, "{")
    while True:
        name, at = _DECODER.raw_decode(text, _skip(text, at))
        found[name] = at = _skip(text, _after(text, at, ":"))
        at = _skip(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == "}":
            return found
        at = _after(text, at, ",")


def _elements(text: str, at: int) -> list[Listed]:
    """Return the elements of the array that starts at `at`."""
    found: list[Listed] = []
    at = _skip(text, _after(text, at, "["))
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        found.append(Listed(value, text[at:end]))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _after(text: str, at: int, sign: str) -> int:
    at = _skip(text, at)
    if text[at] != sign:
        raise ValueError
    return at + 1


def _skip(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at
