"""Posts signed events to a gateway, as Stripe does, for the demo, `billing trigger` and load tests."""

from __future__ import annotations

import time
from dataclasses import dataclass

import aiohttp
from pydantic import SecretStr

from gateway.signature import sign
from schemas.errors import ServiceUnavailable

_TIMEOUT = aiohttp.ClientTimeout(total=20)
"""The same time that Stripe waits for an answer."""


@dataclass(frozen=True, slots=True)
class PostResult:
    """The gateway's answer. `reason` is its message if it refused the event; `ms` is the duration."""

    status: int
    reason: str
    ms: float


class GatewayUnavailable(ServiceUnavailable):
    """The gateway can't be reached. The message names its URL."""


async def post_once(url: str, body: bytes, secret: SecretStr) -> PostResult:
    """Make one delivery attempt over a connection of its own. Raises GatewayUnavailable."""
    try:
        async with aiohttp.ClientSession() as session:
            return await post(session, url, body, secret)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise GatewayUnavailable(f"{url} does not answer: {error or type(error).__name__}") from None


async def post(session: aiohttp.ClientSession, url: str, body: bytes, secret: SecretStr) -> PostResult:
    """Make one delivery attempt. Raises aiohttp.ClientError or TimeoutError if the gateway cannot be reached."""
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": sign(body, [secret.get_secret_value().encode()], timestamp=int(time.time())),
    }
    started = time.perf_counter()
    async with session.post(url, data=body, headers=headers, timeout=_TIMEOUT) as response:
        text = await response.text()
        return PostResult(
            response.status, "" if response.status == 200 else text[:200], (time.perf_counter() - started) * 1000
        )
