"""Under the caller: one request to Stripe, by stripe-python over aiohttp, and what came of it as a value or a fact.

The SDK encodes parameters, pins the API version and reads Stripe's errors; the transport is ours, for three bounds that
its own lacks: the size of an answer, no redirects (they would carry the key elsewhere), and a timeout that also covers
the body. It tries once: when to try again is the outbox's decision.

    ApiTrouble
    ├── Unreachable     nothing was sent
    ├── NoAnswer        sent, and nothing usable came back: it may have been done
    └── Refusal         Stripe's own error
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

from sinks.stripe_api.key import ApiKey, without_keys

MAX_ANSWER_BYTES = 1024 * 1024
"""With room for the rest of the event, below what a record may hold (eventlog/append.py)."""

_RETRY_AFTER_LONGEST = timedelta(hours=1)
_LONGEST_MESSAGE = 300


class ApiTrouble(Exception):
    """A request that did not succeed."""


class Unreachable(ApiTrouble):
    """No connection: nothing was sent."""


class NoAnswer(ApiTrouble):
    """Sent, and nothing usable came back: it may have been done."""


class Refusal(ApiTrouble):
    """Stripe's own error; the message is Stripe's, without keys."""

    def __init__(
        self, message: str, *, status: int, code: str | None, should_retry: bool | None, retry_after: timedelta
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.should_retry = should_retry
        """What Stripe says of trying again, where it says it."""
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Request:
    """`params` go into the query of a GET and the form of a POST."""

    method: str
    path: str
    account: str = ""
    idempotency_key: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """`as_of` is the latest whole second of Stripe's clock that certainly lies before the answer was made; UTC."""

    body: dict[str, Any]
    as_of: datetime
    request_id: str | None
    api_version: str | None
    text: str = field(default="", repr=False, compare=False)
    """The body as it came."""


class StripeApi:
    """For concurrent use; `close` when done. The key is shown by nothing in here."""

    def __init__(
        self,
        key: ApiKey,
        base: str,
        *,
        connect_s: float = 5.0,
        total_s: float = 30.0,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        # The SDK reports its timings to Stripe, and logs bodies at debug level: neither is ours to give away.
        stripe.enable_telemetry = False
        logging.getLogger("stripe").setLevel(logging.WARNING)
        self.mode = key.mode
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
        """One try. Raises Unreachable, NoAnswer, Refusal."""
        options: dict[str, Any] = {"stripe_account": request.account or None}
        if request.idempotency_key is not None:
            options["idempotency_key"] = request.idempotency_key
        started = time.monotonic()
        try:
            response = await self._client.raw_request_async(
                request.method.lower(), request.path, **request.params, **options
            )
        except stripe.StripeError as error:
            raise _trouble(error) from None  # its arguments hold the body
        seconds = time.monotonic() - started
        headers = cast("Mapping[str, str]", response.headers)
        try:
            body = orjson.loads(response.body)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise NoAnswer("an answer that is no JSON object")
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
                        raise NoAnswer(f"an answer of more than {self._max_answer_bytes} bytes")
                return bytes(body), response.status, response.headers
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(f"Stripe cannot be reached: {type(error).__name__}") from None
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._timeout.total:g} s") from None
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
    said = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(said, Mapping):
        return NoAnswer(f"HTTP {status} without an error of Stripe's")  # a proxy, a wrong address
    message = "".join(c if c.isprintable() else " " for c in str(error.user_message or "no message"))
    message = without_keys(message)[:_LONGEST_MESSAGE]
    code = said.get("code") or said.get("type")
    return Refusal(
        f"HTTP {status}{f' {code}' if code else ''}: {message}",
        status=status,
        code=str(said["code"]) if said.get("code") else None,
        should_retry={"true": True, "false": False}.get(headers.get("Stripe-Should-Retry", "")),
        retry_after=_retry_after(headers.get("Retry-After", "")),
    )


def _retry_after(said: str) -> timedelta:
    seconds = int(said) if said.isascii() and said.isdigit() and len(said) < 9 else 0
    return min(timedelta(seconds=seconds), _RETRY_AFTER_LONGEST)


def _as_of(headers: Mapping[str, str], seconds: float) -> datetime:
    # By Stripe's clock, which also dates its events; ours may be minutes off.
    try:
        said = parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError):
        said = datetime.now(UTC).replace(microsecond=0)
    return said.astimezone(UTC) - timedelta(seconds=math.ceil(seconds))
