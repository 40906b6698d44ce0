"""Opens Stripe's customer portal for the link "update payment method" of a mail (F4).

The link is signed and expires. Each opening asks Stripe for a fresh session, whose address works for a few minutes, and
redirects there. Mail programs open links too, so the calls to Stripe are limited per customer and in total.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog
from aiohttp import web

from gateway.pages import HEADERS, INCOMPLETE, answer, only
from schemas.errors import ServiceUnavailable
from schemas.portal_link import ForgedLink, PortalLink, PortalRefused, read_portal_token
from schemas.timing import utc_now
from schemas.urls import is_page_of_stripe

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 10.0
PER_CUSTOMER = 6
"""Sessions for one customer within `WINDOW_S`."""
WINDOW_S = 60.0
PER_SECOND = 5.0
"""Sessions of this process per second, for all customers."""
_BURST = 20
_MOST_CUSTOMERS = 10_000

_TRY_AGAIN = "Please try again in a few minutes."


class PortalSessions(Protocol):
    """Opens a session and returns its address. Raises PortalRefused, ServiceUnavailable."""

    async def open(self, link: PortalLink) -> str: ...


@dataclass(slots=True)
class OpeningLimit:
    """Limits openings per customer and in total. Remembers a bounded number of customers, the latest ones."""

    clock: Callable[[], float] = time.monotonic
    _tokens: float = float(_BURST)
    _filled_at: float | None = None
    _opened: OrderedDict[tuple[str, str], list[float]] = field(default_factory=OrderedDict)

    def allows(self, link: PortalLink) -> bool:
        """Whether the portal may be opened now; counts the opening if so."""
        now = self.clock()
        if self._filled_at is not None:
            self._tokens = min(_BURST, self._tokens + (now - self._filled_at) * PER_SECOND)
        self._filled_at = now
        key = (link.account, link.customer_id)
        recent = [at for at in self._opened.get(key, ()) if now - at < WINDOW_S]
        if len(recent) >= PER_CUSTOMER or self._tokens < 1:
            return False
        self._tokens -= 1
        self._opened[key] = [*recent, now]
        self._opened.move_to_end(key)
        if len(self._opened) > _MOST_CUSTOMERS:
            self._opened.popitem(last=False)
        return True


@dataclass(slots=True)
class Portal:
    """The handler of `/portal`. A session's address must be a page of Stripe, or of `hosts`."""

    secrets: Sequence[bytes]
    sessions: PortalSessions
    hosts: Sequence[str] = ()
    clock: Callable[[], datetime] = utc_now
    limit: OpeningLimit = field(default_factory=OpeningLimit)

    def routes(self) -> list[web.RouteDef]:
        """Returns the routes to add to the gateway's application."""
        return [web.get("/portal", self.open, allow_head=False)]

    async def open(self, request: web.Request) -> web.Response:
        """`GET /portal?token=…`: redirects to a fresh session, or answers with a page that has the reason."""
        try:
            link = read_portal_token(self.secrets, only(request, "token"))
        except ForgedLink:
            return answer("portal", "forged", 403, INCOMPLETE)
        if self.clock() >= link.expires_at:
            return answer("portal", "link_expired", 410, "This link has expired. Please use the link of a newer mail.")
        if not self.limit.allows(link):
            return answer("portal", "limited", 429, "This link was opened often. Please wait a minute.", int(WINDOW_S))
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                url = await self.sessions.open(link)
        except (ServiceUnavailable, TimeoutError) as error:
            log.warning("link.unavailable", action="link.unavailable", what="portal", error=str(error))
            return answer("portal", "unavailable", 503, _TRY_AGAIN, 60)
        except PortalRefused as error:
            return _refused(str(error))
        if not is_page_of_stripe(url, self.hosts):
            return _refused("the session's address is not a page of Stripe")
        log.info("link.answered", action="link.answered", what="portal", outcome="opened", status=303)
        return web.Response(status=303, headers=HEADERS | {"Location": url})


def _refused(reason: str) -> web.Response:
    log.error("link.no_portal", action="link.no_portal", what="portal", error=reason)
    return answer("portal", "refused", 502, "This page cannot be opened. Please answer the mail.")
