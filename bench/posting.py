"""Posts load over HTTP with little CPU: requests are built before, and answers are hardly parsed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from bench.load import Json
from bench.place import SECRET
from gateway.signature import sign
from schemas.errors import BillingError

WITHIN_S = 300.0
"""Seconds that one load may take. Its signatures are valid for as long."""


class NotAccepted(BillingError):
    """The server answered something other than 200, or a connection broke."""


@dataclass(slots=True)
class Posted:
    """The timing of a load. `due` and `answered` hold one Unix time per request, in the order of the requests."""

    begun: float
    ended: float = 0.0
    due: list[float] = field(default_factory=list)
    """When each request was due. With a rate this does not depend on whether a connection was free."""
    answered: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return len(self.answered) / (self.ended - self.begun)

    @property
    def latencies_ms(self) -> list[float]:
        return [1000 * (end - due) for due, end in zip(self.due, self.answered, strict=True)]


def requests_of(events: Sequence[Json], host: str) -> list[bytes]:
    """Return complete HTTP requests, signed with the present time."""
    now, found = int(time.time()), []
    for event in events:
        body = orjson.dumps(event)
        signature = sign(body, [SECRET.encode()], timestamp=now)
        head = (
            f"POST /webhooks/stripe HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nStripe-Signature: {signature}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


async def post_all(port: int, requests: Sequence[bytes], connections: int, per_s: float | None = None) -> Posted:
    """Send all requests over keep-alive connections, one at a time on each. Raises NotAccepted.

    `per_s` limits the rate; without it each request follows the previous answer.
    """
    loop = asyncio.get_running_loop()
    posted = Posted(time.time(), due=[0.0] * len(requests), answered=[0.0] * len(requests))
    load = _Load(requests, posted, per_s, loop.create_future(), len(requests))
    opened = [
        await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port)
        for _ in range(min(connections, len(requests)))
    ]
    posted.begun = time.time()
    for _, connection in opened:
        connection.send_next()
    try:
        async with asyncio.timeout(WITHIN_S):
            await load.done
    finally:
        for transport, _ in opened:
            transport.close()
    posted.ended = time.time()
    return posted


@dataclass(slots=True)
class _Load:
    requests: Sequence[bytes]
    posted: Posted
    per_s: float | None
    done: asyncio.Future[None]
    open: int
    next: int = 0

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(NotAccepted(reason))


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._number = -1
        self._answer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # uvloop's transport has `write` but does not subclass asyncio.WriteTransport

    def send_next(self) -> None:
        load = self._load
        if load.next >= len(load.requests):
            return
        number, load.next = load.next, load.next + 1
        now = time.time()
        due = now if load.per_s is None else load.posted.begun + number / load.per_s
        load.posted.due[number] = due
        if due > now:
            asyncio.get_running_loop().call_later(due - now, self._send, number)
        else:
            self._send(number)

    def _send(self, number: int) -> None:
        self._number = number
        self._transport.write(self._load.requests[number])

    def data_received(self, data: bytes) -> None:
        load = self._load
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < _length_in(head):
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            load.fail(self._answer[:300].decode(errors="replace"))
            return
        self._answer = b""
        load.posted.answered[self._number] = time.time()
        load.open -= 1
        if not load.open and not load.done.done():
            load.done.set_result(None)
        self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._load.open:
            count = len(self._load.requests)
            self._load.fail(
                f"a connection broke with {self._load.open} of {count} requests open: {exc!r}, {self._answer!r}"
            )


def _length_in(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0])
