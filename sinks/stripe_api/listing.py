"""Beside the flow: Stripe's lists, page after page, each object with its bytes as Stripe wrote them.

The SDK would give objects that no longer say how Stripe wrote a number, and an event goes on the log as it was sent.
https://docs.stripe.com/api/pagination
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from schemas.timing import Timetable
from sinks.stripe_api.api import ApiResponse, ApiTrouble, NoAnswer, Refusal, Request, StripeApi
from sinks.stripe_api.rate import RateLimit

log = structlog.get_logger(__name__)

PAGE = 100
"""Stripe's own limit."""

MAX_PAGE_BYTES = 64 * 1024 * 1024
"""For the client that lists: a hundred events of more than half a megabyte each."""

TIMETABLE = Timetable(first=timedelta(seconds=1), factor=2, tries=8)
"""Pauses of 1, 2, 4 … 64 seconds, or what Stripe asks for if that is longer."""

_BLANK = " \t\r\n"
_DECODER = json.JSONDecoder()


class ListingBroken(ApiTrouble):
    """An answer that is no list, or pages that do not go on."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a list; `text` is what Stripe wrote of it."""

    object: dict[str, Any]
    text: str

    @property
    def id(self) -> str:
        found: str = self.object["id"]
        return found


@dataclass(frozen=True, slots=True)
class Page:
    """`as_of`, `request_id` and `api_version` are those of the answer (sinks/stripe_api/api.py)."""

    items: list[Listed]
    has_more: bool
    as_of: datetime
    request_id: str | None
    api_version: str | None


class Lists:
    """Reads lists, one page at a time, within our rate. Tries again what time may heal; raises ApiTrouble at last."""

    def __init__(
        self,
        api: StripeApi,
        rate: RateLimit,
        *,
        timetable: Timetable = TIMETABLE,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.mode = api.mode
        self._api = api
        self._rate = rate
        self._timetable = timetable
        self._chance = chance

    async def pages(self, path: str, params: Mapping[str, Any], account: str = "") -> AsyncIterator[Page]:
        """The pages of the list, newest objects first. Objects that come again, in this page or another, are left out.

        `account` is a connected account, '' for one's own. Raises ApiTrouble.
        """
        seen: set[str] = set()
        after: dict[str, str] = {}
        while True:
            answer = await self._get(Request("GET", path, account, params={**params, "limit": PAGE, **after}))
            items, has_more = split(answer.text)
            fresh = list({item.id: item for item in items if item.id not in seen}.values())
            seen.update(item.id for item in fresh)
            if has_more and not fresh:
                raise ListingBroken(f"{path}: a page with nothing new on it says that there is more")
            yield Page(fresh, has_more, answer.as_of, answer.request_id, answer.api_version)
            if not has_more:
                return
            after = {"starting_after": items[-1].id}

    async def _get(self, request: Request) -> ApiResponse:
        tries = 0
        while True:
            await self._rate.take()
            tries += 1
            try:
                return await self._api.call(request)
            except ApiTrouble as error:
                pause = self._timetable.pause_after(tries, self._chance())
                if pause is None or not _may_heal(error):
                    raise
                wait = max(pause, error.retry_after) if isinstance(error, Refusal) else pause
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
    """The objects of a list object's `data`, and its `has_more`. Raises NoAnswer for what is no list."""
    try:
        members = _members(text)
        has_more = bool(_DECODER.raw_decode(text, members["has_more"])[0])
        items = _elements(text, members["data"])
    except (KeyError, IndexError, ValueError, RecursionError):  # ValueError: JSON's own, too
        raise NoAnswer("an answer that is no list of Stripe's") from None
    if not all(isinstance(item.object, dict) and isinstance(item.object.get("id"), str) for item in items):
        raise NoAnswer("a list of something else than objects with ids")
    return items, has_more


def _members(text: str) -> dict[str, int]:
    """Where the value of each member of the object begins."""
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
    """What the array that begins here holds."""
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


def _may_heal(error: ApiTrouble) -> bool:
    if isinstance(error, ListingBroken):
        return False
    if isinstance(error, Refusal):
        return error.status in (409, 429) or error.status >= 500 or error.should_retry is True
    return True
