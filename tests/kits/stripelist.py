"""A fake Stripe over HTTP with lists: events by time and cursor, subscriptions, invoices and accounts.
It also returns one object of these lists by its id. All other requests are refused.

As at Stripe, lists are newest first, with `starting_after`, `ending_before`, `created[gte]`, `created[lt]` and `types`,
at most 100 objects a page, indented. The fake can be set to refuse, fail, hang, answer slowly or repeat objects.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

KEY = "sk_test_51QwertyuiopAsdfghjklZxcvbnm"

Json = dict[str, Any]
_TYPES = re.compile(r"types\[\d*\]")


@dataclass
class ListingStripe:
    """The fake Stripe: `async with ListingStripe() as stripe:`. The account '' is the own account."""

    key: str = KEY
    lists: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    """Objects by account and list (events, subscriptions, invoices), in any order."""
    accounts: list[str] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    """Names of lists that the key may not read."""
    undelivered: set[str] = field(default_factory=set)
    faults: deque[str] = field(default_factory=deque)
    """Faults of the next requests, in order: `429`, `500`, `hang`, `drop`, `html`, `ok`."""
    retry_after_s: int = 1
    hang_at: int | None = None
    """Requests with this number (from 1) or a higher one get no answer."""
    slow_s: float = 0.0
    repeats: bool = False
    """Whether each page begins with the last object of the previous page."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Account, path and query of each request."""
    at: list[float] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def add_events(self, *events: Json, account: str = "") -> None:
        self.lists.setdefault((account, "events"), []).extend(events)

    async def __aenter__(self) -> ListingStripe:
        app = web.Application()
        app.router.add_get("/v1/{name}", self._handle)
        app.router.add_get("/v1/{name}/{id}", self._retrieve)
        app.router.add_post("/v1/{path:.+}", self._refuse)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        account = request.headers.get("Stripe-Account", "")
        self.requests.append((account, request.path, dict(request.query)))
        self.at.append(asyncio.get_running_loop().time())
        fault = self.faults.popleft() if self.faults else "ok"
        if fault == "hang" or (self.hang_at is not None and len(self.requests) >= self.hang_at):
            await asyncio.sleep(3600)
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if fault == "drop" and request.transport is not None:
            request.transport.abort()
        if fault == "html":
            return web.Response(status=502, text="<html>bad gateway</html>", content_type="text/html")
        if fault in ("429", "500"):
            error = {"type": "invalid_request_error", "code": "rate_limit", "message": f"slow down {self.key}"}
            return self._answer(
                {"error": error}, int(fault), {"Retry-After": f"{self.retry_after_s}"} if fault == "429" else {}
            )
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return self._answer({"error": {"type": "invalid_request_error", "message": "Invalid API Key"}}, 401)
        if account and account not in self.accounts:
            error = {"type": "invalid_request_error", "code": "account_invalid", "message": "no access"}
            return self._answer({"error": error}, 403)
        if request.match_info["name"] in self.forbidden:
            error = {"type": "invalid_request_error", "message": "The provided key does not have the right"}
            return self._answer({"error": error}, 403)
        return self._list(request, account)

    async def _retrieve(self, request: web.Request) -> web.Response:
        account = request.headers.get("Stripe-Account", "")
        for item in self.lists.get((account, request.match_info["name"]), []):
            if item["id"] == request.match_info["id"]:
                return self._answer(item)
        return self._missing(request.match_info["id"])

    async def _refuse(self, request: web.Request) -> web.Response:
        """Refuse every change: the object does not exist."""
        return self._missing(request.match_info["path"].rpartition("/")[2])

    def _missing(self, id_: str) -> web.Response:
        error = {"type": "invalid_request_error", "code": "resource_missing", "message": f"No such object: '{id_}'"}
        return self._answer({"error": error}, 404)

    def _list(self, request: web.Request, account: str) -> web.Response:
        name, query = request.match_info["name"], request.query
        if name == "accounts":
            found: list[Json] = [{"id": id_, "object": "account", "created": 0} for id_ in self.accounts]
        else:
            found = [item for item in self.lists.get((account, name), []) if self._matches(item, query)]
        found.sort(key=lambda item: (item["created"], item["id"]), reverse=True)
        ids = [item["id"] for item in found]
        limit = min(int(query.get("limit", "10")), 100)
        for cursor in ("starting_after", "ending_before"):
            if cursor in query and query[cursor] not in ids:
                return self._answer({"error": {"code": "resource_missing", "message": f"No such: {cursor}"}}, 400)
        if "ending_before" in query:
            before = found[: ids.index(query["ending_before"])]
            page, has_more = before[-limit:], len(before) > limit
        else:
            start = ids.index(query["starting_after"]) + (not self.repeats) if "starting_after" in query else 0
            page, has_more = found[start : start + limit], len(found) > start + limit
        self.served.update(item["id"] for item in page)
        return self._answer({"object": "list", "data": page, "has_more": has_more, "url": request.path})

    def _matches(self, item: Json, query: Any) -> bool:
        types = [value for name, value in query.items() if _TYPES.fullmatch(name)]
        return (
            int(query.get("created[gte]", "0")) <= item["created"] < int(query.get("created[lt]", "99999999999"))
            and (not types or item["type"] in types)
            and (query.get("delivery_success") != "false" or item["id"] in self.undelivered)
            and ("status" in query or item.get("object") != "subscription" or item["status"] != "canceled")
        )

    def _answer(self, answer: Json, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
        return web.Response(
            status=status,
            text=json.dumps(answer, indent=2),
            content_type="application/json",
            headers={
                "Request-Id": f"req_{len(self.requests)}",
                "Stripe-Version": "2025-11-17.clover",
                "Date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
                **(headers or {}),
            },
        )
