"""Takes batches of records from Faust, passes them to the book and acks them, in the group `{prefix}.analytics`.

As in streams/agent.py, no exception may leave the loop, since Faust would ack the batch and lose it. Errors that a
retry cannot fix end the process without a commit. No Faust table is needed: the primary key of `facts` prevents events
from being counted twice.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
import structlog

from analytics import metrics
from analytics.book import Book, Counted
from schemas.errors import Transient
from schemas.settings import Settings
from schemas.timing import pause
from streams.faust.app import App
from streams.faust.sensor import KafkaSensor

log = structlog.get_logger(__name__)


EXIT_CANNOT_GO_ON = 70
"""EX_SOFTWARE, the same exit code as of a worker that cannot go on."""


def exit_uncommitted(error: BaseException) -> None:
    """Ends the process at once. An orderly stop would commit offsets."""
    log.critical("analytics.cannot_go_on", action="analytics.cannot_go_on", error=repr(error), exc_info=error)
    os._exit(EXIT_CANNOT_GO_ON)


def group_of(prefix: str) -> str:
    """Returns the name of the consumer group, which is also Faust's application id."""
    return f"{prefix}.analytics"


@dataclass(frozen=True, slots=True)
class Read:
    """The parts of a record that analytics reads."""

    topic: str
    partition: int
    offset: int
    type: str
    value: bytes | None


@dataclass(slots=True, kw_only=True)
class Follower:
    """Reads one process's stream and counts its batches."""

    book: Book
    batch_size: int
    batch_within_s: float
    give_up: Callable[[BaseException], None] = exit_uncommitted
    troubled_since: float | None = None
    """Monotonic time of the first failed attempt while batches fail, else None."""
    trouble: str = ""

    async def run(self, stream: Any) -> None:
        """Consumes until the stream ends. `stream` is a Faust stream; the values of its events are bytes."""
        async for events in stream.noack_take(self.batch_size, within=self.batch_within_s):
            try:
                await self.handle([_read(event) for event in events])
                for event in events:
                    await stream.ack(event)
            except asyncio.CancelledError:
                raise  # Faust is stopping the agent; records that are not acked are read again
            except BaseException as error:  # noqa: BLE001  # ends the process: see the module's docstring
                self.give_up(error)

    async def handle(self, records: Sequence[Read]) -> None:
        """Counts one batch. Retries transient errors without limit; raises only unforeseen errors."""
        started = time.perf_counter()
        counted = await self._take(records)
        metrics.BATCH_SIZE.observe(len(records))
        metrics.BATCH_SECONDS.observe(time.perf_counter() - started)
        for outcome in ("passed", "facts", "unreadable"):
            metrics.EVENTS.labels(outcome).inc(getattr(counted, outcome))
        metrics.ROWS.inc(counted.rows)

    async def _take(self, records: Sequence[Read]) -> Counted:
        attempt = 1
        while True:
            try:
                counted = await self.book.take(records)
            except Transient as error:
                self.trouble = f"{type(error).__name__}: {error}"
                self.troubled_since = self.troubled_since or time.monotonic()
                wait_s = pause(attempt)
                log.warning(
                    "analytics.retry",
                    action="analytics.retry",
                    error=self.trouble,
                    attempt=attempt,
                    wait_s=round(wait_s, 2),
                )
                metrics.RETRIES.labels(type(error).__name__).inc()
                attempt += 1
                await asyncio.sleep(wait_s)
            else:
                self.troubled_since, self.trouble = None, ""
                return counted


def create_app(settings: Settings) -> faust.App:
    """Returns an app that is not connected yet, with the same limits as the worker's (streams/faust/app.py)."""
    datadir = Path(settings.state_dir) / "faust"
    datadir.mkdir(parents=True, exist_ok=True)
    app = App(
        group_of(settings.topic_prefix),
        broker=f"kafka://{settings.kafka_bootstrap.replace(',', ';kafka://')}",
        datadir=datadir,
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        key_serializer="raw",
        value_serializer="raw",
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=1.0,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 4,
        broker_max_poll_interval=300.0,
        broker_request_timeout=15.0,
        producer_request_timeout=15.0,
        stream_wait_empty=False,
        stream_buffer_maxsize=4096,
    )
    app.sensors.add(KafkaSensor())
    return app


def attach(app: faust.App, follower: Follower, topic: str) -> None:
    """Registers the agent that passes the records of `topic` to `follower`."""
    channel = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    @app.agent(channel, name="analytics", concurrency=1)
    async def analytics(stream: Any) -> None:
        await follower.run(stream)


def _read(event: Any) -> Read:
    message = event.message
    headers = message.headers if isinstance(message.headers, Mapping) else dict(message.headers or ())
    type_ = bytes(headers.get("type") or b"").decode("utf-8", "replace")
    return Read(message.topic, message.partition, message.offset, type_, event.value)
