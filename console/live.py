"""New events for open pages: one poller for the process, and one stream of server-sent events per visible page.

The poller asks once a second while a page is watched, and not at all otherwise. It looks back 30 seconds, because a
transaction may commit a row whose `applied_at` is older than rows that are visible already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import orjson
import structlog
from aiohttp import web

from console.reads import FAILURES, Reads
from sinks.postgres.lists import events

log = structlog.get_logger(__name__)

LOOK_BACK = timedelta(seconds=30)
_EVERY_S = 1.0
_HEARTBEAT_S = 15.0
_MOST = 1000
_MOST_STREAMS = 100


class Live:
    """Counts events that were processed since the poller began, each once."""

    def __init__(self, reads: Reads, clock: Callable[[], datetime]) -> None:
        self._reads = reads
        self._clock = clock
        self._seen: dict[str, datetime] = {}
        self._count = 0
        self._dead = 0
        self._watchers = 0
        self._poller: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._is_closing = False
        self.polls = 0
        """Queries made so far, for tests and metrics."""

    @property
    def watchers(self) -> int:
        return self._watchers

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Answers with a stream of `{"new": n, "dead": m}`, counted from the stream's start, and a heartbeat."""
        if self._watchers >= _MOST_STREAMS:
            raise web.HTTPServiceUnavailable(reason="too many pages are watched")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._watchers += 1
        try:
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll())
            await response.prepare(request)
            await self._feed(response)
        except (ConnectionResetError, asyncio.CancelledError):
            pass  # the page was closed
        finally:
            self._watchers -= 1
        return response

    def end(self) -> None:
        """Ends all streams and accepts no more."""
        self._is_closing = True
        self._wake()

    async def close(self) -> None:
        """Ends all streams, and the poller."""
        self.end()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _feed(self, response: web.StreamResponse) -> None:
        start, dead_at_start, sent = self._count, self._dead, -1
        await response.write(b"retry: 3000\n\n")
        while not self._is_closing:
            changed = self._changed  # before the comparison: what changes during a write wakes this stream, too
            if self._count != sent:
                sent = self._count
                body = orjson.dumps({"new": sent - start, "dead": self._dead - dead_at_start})
                await response.write(b"data: " + body + b"\n\n")
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    await changed.wait()
            except TimeoutError:
                await response.write(b": still here\n\n")

    async def _poll(self) -> None:
        is_first = True
        while self._watchers and not self._is_closing:
            try:
                await self.look(is_first=is_first)
                is_first = False
            except FAILURES as error:
                log.warning("console.poll_failed", action="console.poll_failed", error=str(error))
            await asyncio.sleep(_EVERY_S)

    async def look(self, *, is_first: bool = False) -> None:
        """Asks once. The first time only remembers what is there."""
        since = self._clock() - LOOK_BACK
        self.polls += 1
        found = await self._reads.ask(lambda connection: events.processed_since(connection, since, most=_MOST))
        # An event that was decided again (a replay, a retry) has another time, so it is new again.
        fresh = [row for row in found if self._seen.get(row["event_id"]) != row["applied_at"]]
        self._seen = {row["event_id"]: row["applied_at"] for row in found}
        if fresh and not is_first:
            self._count += len(fresh)
            self._dead += sum(row["outcome"] == "dead" for row in fresh)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
