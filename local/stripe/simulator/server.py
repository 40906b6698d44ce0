"""Stripe's API over HTTP on loopback, with faults on request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import orjson
from aiohttp import web

from local.stripe.builder import ApiShape, Json
from local.stripe.simulator.lists import Api, ApiError
from local.stripe.simulator.stripe import SimulatedStripe

TEST_KEY = "sk_test_51SimulatedStripeNotASecret00"
HANG_S = 3600.0


class Fault(StrEnum):
    """What goes wrong with one request."""

    RATE_LIMIT = "429"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    """A proxy's page of HTML."""
    HANG = "hang"
    DROP = "drop"
    SLOW = "slow"
    """The answer comes after `slow_s`."""


@dataclass(slots=True)
class ApiRequest:
    """One request."""

    method: str
    path: str
    account: str
    query: Mapping[str, str]
    form: Mapping[str, str]


@dataclass
class StripeServer:
    """`async with StripeServer(stripe) as server:` answers at `server.url`, on loopback only."""

    stripe: SimulatedStripe
    key: str = TEST_KEY
    shape: ApiShape = ApiShape.NEW
    undelivered: set[str] = field(default_factory=set)
    """Ids of the events that no endpoint took: `delivery_success=false` lists them."""
    faults: deque[Fault] = field(default_factory=deque)
    """For the next requests, one each."""
    refuse_from: int | None = None
    """From this request on (the first is 0), every one is refused for good."""
    unreadable: str | None = None
    """A name that may not be expanded, as with a restricted key without the right to read it."""
    slow_s: float = 0.5
    retry_after_s: int = 1
    requests: list[ApiRequest] = field(default_factory=list)
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    """The `Date` of the answers, by which a client knows how fresh they are."""
    _answers: dict[str, tuple[int, Json]] = field(default_factory=dict)
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        if self._runner is None:
            raise RuntimeError("the server has not been started")
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aenter__(self) -> StripeServer:
        app = web.Application()
        app.router.add_route("*", "/v1/{path:.+}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        account = request.headers.get("Stripe-Account", "")
        asked = ApiRequest(request.method, request.path, account, dict(request.query), form)
        self.requests.append(asked)
        if self.refuse_from is not None and len(self.requests) > self.refuse_from:
            return self._answer(
                403, {"error": {"type": "invalid_request_error", "message": "This key may not do that"}}
            )
        match self.faults.popleft() if self.faults else None:
            case Fault.HANG:
                await asyncio.sleep(HANG_S)
            case Fault.SLOW:
                await asyncio.sleep(self.slow_s)
            case Fault.DROP:
                return _dropped(request)
            case Fault.RATE_LIMIT:
                error = {"type": "invalid_request_error", "code": "rate_limit", "message": "Too many requests"}
                return self._answer(429, {"error": error}, {"Retry-After": str(self.retry_after_s)})
            case Fault.SERVER_ERROR:
                return self._answer(500, {"error": {"type": "api_error", "message": "Something went wrong"}})
            case Fault.BAD_GATEWAY:
                return web.Response(status=502, text="<html>bad gateway</html>", content_type="text/html")
        try:
            status, body = self._act(asked, request)
        except ApiError as error:
            status, body = error.status, error.body
        return self._answer(status, body)

    def _act(self, asked: ApiRequest, request: web.Request) -> tuple[int, Json]:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            raise ApiError(401, "Invalid API Key provided")
        if asked.account not in self.stripe.accounts:
            raise ApiError(403, f"The key has no access to account '{asked.account}'", "account_invalid")
        expanded = " ".join(value for name, value in asked.query.items() if name.startswith("expand["))
        if self.unreadable is not None and self.unreadable in expanded:
            raise ApiError(403, f"This key may not read what expands {self.unreadable}")
        api = Api(self.stripe.accounts[asked.account], self.shape, self.undelivered)
        path = request.match_info["path"]
        if asked.method != "POST":
            return 200, self._get(api, path, asked)
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return 200, api.post(path, asked.form)
        if key not in self._answers:
            self._answers[key] = 200, api.post(path, asked.form)
        return self._answers[key]

    def _get(self, api: Api, path: str, asked: ApiRequest) -> Json:
        resource, _, id_ = path.partition("/")
        if path == "accounts":
            accounts = [account for account in self.stripe.accounts if account]
            data = [{"id": account, "object": "account", "created": self.stripe.now} for account in accounts]
            return {"object": "list", "data": data, "has_more": False, "url": "/v1/accounts"}
        if resource == "events":
            return api.event(id_) if id_ else api.events(asked.query)
        if path.startswith("customers/") and path.endswith("/payment_methods"):
            return api.list("payment_methods", {**asked.query, "customer": path.split("/")[1]})
        return api.retrieve(resource, id_, asked.query) if id_ else api.list(resource, asked.query)

    def _answer(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> web.Response:
        return web.Response(
            status=status,
            body=orjson.dumps(body, option=orjson.OPT_INDENT_2),
            content_type="application/json",
            headers={
                "Request-Id": f"req_{len(self.requests)}",
                "Stripe-Version": str(self.shape),
                "Date": self.clock().strftime("%a, %d %b %Y %H:%M:%S GMT"),
                **(headers or {}),
            },
        )


def _dropped(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
