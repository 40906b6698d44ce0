"""The main function of `billing analytics`: runs the consumer that keeps the figures."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import structlog

from analytics.book import Book
from analytics.consumer import Follower, group_of
from analytics.store import FigureStore
from eventlog.access import READ, check_access
from eventlog.client import partition_count
from eventlog.lag import GroupPositions
from ops.runtime.health import OpsServer
from ops.runtime.watchdog import Watchdog
from schemas.settings import Config, Settings
from sinks.postgres.schema_check import SchemaCheck
from streams.faust.app import attach, create_app
from streams.faust.membership import leave_for_good
from streams.faust.watch import ConsumerWatch

log = structlog.get_logger(__name__)

EXIT_UNAVAILABLE = 3


class AnalyticsCrashed(Exception):
    """Faust stopped by itself. The process exits, and the supervisor should start a new one."""


async def run(settings: Settings, config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises AnalyticsCrashed, InvalidSettings, OpsAddressTaken, StoreUnavailable."""
    partitions = await asyncio.to_thread(partition_count, settings.kafka, settings.events_topic)
    group = group_of(settings.topic_prefix)
    await asyncio.to_thread(check_access, settings.kafka, group, {settings.events_topic: [READ]})
    app = create_app(settings, group, partitions)
    store = await FigureStore.connect(settings.database_url, pool_size=2)
    follower = Follower(book=Book(store, config))
    attach(app, follower.run, settings.events_topic)
    places = GroupPositions(settings.kafka, group, settings.events_topic)
    watch = ConsumerWatch(
        app,
        follower.retry,
        places,
        settings.events_topic,
        limit_s=settings.stuck_after_s,
        join_s=2 * settings.session_timeout_s,
    )
    watchdog = Watchdog(watch.checks, limit_s=settings.stuck_after_s)
    schema = SchemaCheck(settings.database_url)
    health = OpsServer(
        settings.ops_host,
        settings.ops_port,
        {"schema": schema.trouble, **watch.ready},
        alive={"progress": watchdog.trouble},
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    await health.start()
    try:
        await schema.until_ready(stopping)
        if not stopping.is_set():
            watchdog.start()
            await app.start()
            watch.is_up = True
            log.info("analytics.started", action="analytics.started", group=group, partitions=partitions)
        while not stopping.is_set():
            if (reason := watch.stopped()) is not None:
                raise AnalyticsCrashed(reason)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), 0.5)
    finally:
        await watchdog.stop()
        if stopping.is_set():
            leave_for_good(app)
        await app.stop()
        await health.stop()
        await asyncio.to_thread(places.close)
        await store.close()
    log.info("analytics.stopped", action="analytics.stopped", group=group)
