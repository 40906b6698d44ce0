"""Posts events to a gateway as Stripe does, signed: for the demo, for `billing trigger`, and for load."""

from __future__ import annotations

import time
from dataclasses import dataclass

import aiohttp
from pydantic import SecretStr

from gateway.signature import sign

_TIMEOUT = aiohttp.ClientTimeout(total=20)
"""As long as Stripe waits."""


@dataclass(frozen=True, slots=True)
class PostResult:
    """`reason` is what the gateway said where it refused."""

    status: int
    reason: str
    ms: float


async def post(session: aiohttp.ClientSession, url: str, body: bytes, secret: SecretStr) -> PostResult:
    """One delivery attempt. Raises aiohttp.ClientError or TimeoutError when the gateway can't be reached."""
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
