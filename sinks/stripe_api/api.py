"""Sends one request to Stripe, with stripe-python over aiohttp; returns the response or raises an ApiTrouble.

The SDK encodes parameters, pins the API version and parses Stripe's errors. It uses a custom transport, because its own
lacks three limits: the size of a response, no redirects (they would send the key to another host), and a timeout that
includes the body. Each request is sent once; the outbox decides about retries.

    ApiTrouble
    ├── Unreachable     no connection: the request was not sent
    ├── NoAnswer        sent, but without a usable response: Stripe may have executed it
    └── Refusal         Stripe returned an error
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, cast

import aiohttp
import orjson
import stripe

from schemas.errors import BillingError, ServiceUnavailable
from sinks.stripe_api.key import ApiKey, without_keys

MAX_ANSWER_BYTES = 1024 * 1024
"""Largest response. Leaves room for the rest of the event within the maximum record size (eventlog/append.py)."""

_RETRY_AFTER_LONGEST = timedelta(hours=1)
_LONGEST_MESSAGE = 300


class ApiTrouble(BillingError):
    """The request did not succeed."""

    @property
    def is_temporary(self) -> bool:
        """Whether the same request can succeed later: Stripe did not answer, or not for reasons of the request."""
        return isinstance(self, ServiceUnavailable)


class Unreachable(ApiTrouble, ServiceUnavailable):
    """There was no connection to Stripe, so the request was not sent."""


class NoAnswer(ApiTrouble, ServiceUnavailable):
    """The request was sent, but there was no usable response. Stripe may have executed it."""


class Refusal(ApiTrouble):
    """Stripe returned an error. The message is Stripe's, with API keys removed."""

    def __init__(
        self, message: str, *, status: int, code: str | None, should_retry: bool | None, retry_after: timedelta
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.should_retry = should_retry
        """Stripe's advice whether to retry (header Stripe-Should-Retry), None if absent."""
        self.retry_after = retry_after

    @property
    def is_temporary(self) -> bool:
        return self.status in (409, 429) or self.status >= 500 or self.should_retry is True


@dataclass(frozen=True, slots=True)
class Request:
    """A request to Stripe. `params` become the query of a GET and the form of a POST.

    `account` is a connected account, '' for the platform's own.
    """

    method: str
    path: str
    account: str = ""
    idempotency_key: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """Stripe's response.

    `as_of` (UTC) is the latest whole second of Stripe's clock that is certainly before Stripe made the response.
    """

    body: dict[str, Any]
    as_of: datetime
    request_id: str | None
    api_version: str | None
    text: str = field(default="", repr=False, compare=False)
    """The body as received."""


class StripeApi:
    """A client for concurrent use. Call `close` when done. Never shows the API key."""

    def __init__(
        self,
        key: ApiKey,
        base: str,
        *,
        connect_s: float = 5.0,
        total_s: float = 30.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        # By default the SDK reports its timings to Stripe, and logs bodies with personal data at debug level.
        stripe.enable_telemetry = False
        logging.getLogger("stripe").setLevel(logging.WARNING)
        self.mode = key.mode
        self.base = base
        self.total_s = total_s
        self._transport = _Transport(
            aiohttp.ClientTimeout(total=total_s, connect=connect_s), max_answer_bytes, is_tls=base[:5] == "https"
        )
        self._client = stripe.StripeClient(
            key.secret.get_secret_value(),
            base_addresses={"api": base},
            max_network_retries=0,
            http_client=self._transport,
        )

    async def call(self, request: Request) -> ApiResponse:
        """Send the request once and return the response. Raises Unreachable, NoAnswer, Refusal."""
        options: dict[str, Any] = {"stripe_account": request.account or None}
        if request.idempotency_key is not None:
            options["idempotency_key"] = request.idempotency_key
        started = time.monotonic()
        try:
            response = await self._client.raw_request_async(
                request.method.lower(), request.path, **request.params, **options
            )
        except stripe.StripeError as error:
            raise _trouble(error) from None  # the SDK's exception contains the body
        seconds = time.monotonic() - started
        headers = cast("Mapping[str, str]", response.headers)
        try:
            body = orjson.loads(response.body)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise NoAnswer("the response is not a JSON object")
        as_of, version = _as_of(headers, seconds), headers.get("Stripe-Version")
        return ApiResponse(body, as_of, headers.get("Request-Id"), version, response.body)

    async def close(self) -> None:
        await self._transport.close_async()


class _Transport(stripe.HTTPClient):
    name = "aiohttp"

    def __init__(self, timeout: aiohttp.ClientTimeout, max_answer_bytes: int, *, is_tls: bool) -> None:
        super().__init__()
        self._timeout = timeout
        self._max_answer_bytes = max_answer_bytes
        self._is_tls = is_tls
        self._session: aiohttp.ClientSession | None = None

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            async with self._opened().request(
                method, url, headers=headers, data=post_data, allow_redirects=False
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_chunked(65_536):
                    body += chunk
                    if len(body) > self._max_answer_bytes:
                        raise NoAnswer(f"the response is larger than {self._max_answer_bytes} bytes")
                return bytes(body), response.status, response.headers
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(f"Stripe cannot be reached: {type(error).__name__}") from None
        except TimeoutError:
            raise NoAnswer(f"no response within {self._timeout.total:g} s") from None
        except aiohttp.ClientError as error:
            raise NoAnswer(f"the connection broke: {type(error).__name__}") from None

    async def sleep_async(self, secs: float) -> None:
        await asyncio.sleep(secs)

    async def close_async(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            trusted = ssl.create_default_context(cafile=stripe.ca_bundle_path) if self._is_tls else True
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, connector=aiohttp.TCPConnector(ssl=trusted, limit=32)
            )
        return self._session


def _trouble(error: stripe.StripeError) -> ApiTrouble:
    status, headers = error.http_status or 0, cast("Mapping[str, str]", error.headers or {})
    body = error.json_body
    details = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(details, Mapping):
        return NoAnswer(f"HTTP {status} without a Stripe error object")  # from a proxy, or the address is wrong
    message = "".join(c if c.isprintable() else " " for c in str(error.user_message or "no message"))
    message = without_keys(message)[:_LONGEST_MESSAGE]
    code = details.get("code") or details.get("type")
    return Refusal(
        f"HTTP {status}{f' {code}' if code else ''}: {message}",
        status=status,
        code=str(details["code"]) if details.get("code") else None,
        should_retry={"true": True, "false": False}.get(headers.get("Stripe-Should-Retry", "")),
        retry_after=_retry_after(headers.get("Retry-After", "")),
    )


def _retry_after(header: str) -> timedelta:
    seconds = int(header) if header.isascii() and header.isdigit() and len(header) < 9 else 0
    return min(timedelta(seconds=seconds), _RETRY_AFTER_LONGEST)


def _as_of(headers: Mapping[str, str], seconds: float) -> datetime:
    # Stripe's clock also dates Stripe's events; the local clock may differ by minutes.
    try:
        date = parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError):
        date = datetime.now(UTC).replace(microsecond=0)
    return date.astimezone(UTC) - timedelta(seconds=math.ceil(seconds))
