"""Posts notifications to receivers over HTTP and to the topic of changes, and returns the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import aiohttp
import orjson

from eventlog.append import EventAppender
from eventlog.entry import Entry
from schemas.errors import LogUnavailable
from schemas.feed_settings import Destination
from schemas.ordering import ordering_key
from schemas.plugin import Handler
from schemas.timing import utc_now
from sinks.feed.answers import Answer
from sinks.feed.guard import GuardedResolver, NotPublic
from sinks.feed.message import body_of, headers_of
from sinks.feed.notifications import QueuedNotification

TOTAL_S = 15.0
"""Seconds for a receiver to answer. It should store the notification, answer, and work afterwards."""
_CONNECT_S = 5.0


class Poster(Protocol):
    """Sends notifications to one destination. For concurrent use."""

    async def post(self, row: QueuedNotification) -> Answer:
        """Sends one notification and returns the answer. Does not raise."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Receiver:
    """One destination of the config, with its secrets from everywhere."""

    name: str
    destination: Destination
    secrets: tuple[str, ...]


class WebhookPoster:
    """Posts to one receiver. Follows no redirect, reads no answer's body, and connects to no private address."""

    def __init__(
        self, receiver: Receiver, *, total_s: float = TOTAL_S, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._url = receiver.destination.url
        self._secrets = receiver.secrets
        self._allowed = receiver.destination.allow_networks
        self._timeout = aiohttp.ClientTimeout(total=total_s, connect=min(_CONNECT_S, total_s))
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def post(self, row: QueuedNotification) -> Answer:
        body = body_of(row)
        headers = headers_of(row.message_id, body, self._secrets, self._clock())
        try:
            async with self._opened().post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                return Answer(response.status)
        except TimeoutError:
            return Answer(0, f"no answer within {self._timeout.total:g} s")
        except aiohttp.ClientConnectorError as error:
            cause = error.os_error
            return Answer(
                0, str(cause) if isinstance(cause, NotPublic) else f"cannot connect: {cause.strerror or cause}"
            )
        except (aiohttp.ClientError, ValueError) as error:
            return Answer(0, f"the connection broke: {type(error).__name__}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=GuardedResolver(self._allowed), limit=16, use_dns_cache=False)
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # no body is read, and an encoding that we lack must not make a 200 a failure
            )
        return self._session


class TopicPoster:
    """Appends to the topic of changes, with the key of the customer's events."""

    def __init__(self, log: EventAppender) -> None:
        self._log = log
        self._appending = asyncio.Lock()

    async def post(self, row: QueuedNotification) -> Answer:
        try:
            async with self._appending:
                await self._log.append([entry_of(row)])
        except LogUnavailable as error:
            return Answer(0, str(error))
        return Answer(200)

    async def close(self) -> None:
        await asyncio.to_thread(self._log.close)


class HandlerPoster:
    """Gives notifications to a plugin's handler."""

    def __init__(self, handler: Handler, *, total_s: float = TOTAL_S, grace_s: float = 1.0) -> None:
        """`grace_s` is the time for a handler to end after it is cancelled."""
        self._handler = handler
        self._total_s = total_s
        self._grace_s = grace_s
        self._late: set[asyncio.Task[Answer]] = set()
        """Calls that have ignored their cancellation. Until they end, there is no further call."""

    async def post(self, row: QueuedNotification) -> Answer:
        """Calls the handler in a task of its own, so that neither its cancellation nor its hanging ends the lane."""
        if self._late:
            return Answer(0, "an earlier call still runs, although it was cancelled")
        call = asyncio.create_task(self._call({"id": row.message_id, **orjson.loads(body_of(row))}))
        try:
            await asyncio.wait({call}, timeout=self._total_s)
            if call.done():
                return Answer(0, "the handler was cancelled") if call.cancelled() else call.result()
            call.cancel()
            await asyncio.wait({call}, timeout=self._grace_s)
        finally:
            if not call.done():
                call.cancel()
                self._late.add(call)
                call.add_done_callback(self._late.discard)
        return Answer(0, f"no answer within {self._total_s:g} s")

    async def _call(self, message: Mapping[str, object]) -> Answer:
        try:
            await self._handler.handle(message)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # foreign code, which can raise anything; it is tried again
            return Answer(0, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return Answer(200)

    async def close(self) -> None:
        """Has nothing to close."""


def entry_of(row: QueuedNotification) -> Entry:
    """Returns the record of a change. Its key is that of the customer's events, so both have the same partition."""
    named: Mapping[str, object] = {
        "object": "event",
        "id": row.event_id,
        "type": row.type,
        **({"account": row.account} if row.account else {}),
        "data": {"object": {"object": "change", "id": row.message_id, "customer": row.customer_id}},
    }
    headers = {
        "message_id": row.message_id,
        "type": row.type,
        "account": row.account,
        "livemode": "true" if row.livemode else "false",
        "version": str(row.version),
    }
    return Entry(
        ordering_key(named).encode(), body_of(row), tuple((name, value.encode()) for name, value in headers.items())
    )
