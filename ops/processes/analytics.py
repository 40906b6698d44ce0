"""The main function of `billing analytics`: runs the consumer that keeps the figures."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import structlog

from analytics.book import Book
from analytics.consumer import Follower, group_of
from analytics.store import FigureStore
from eventlog.access import READ, check_access
from eventlog.client import partition_count
from eventlog.lag import GroupPositions
from eventlog.topic_settings import TopicIdentity
from ops.processes.skeleton import Process
from ops.runtime.exit_codes import CannotContinue
from schemas.settings import Config, Settings
from streams.faust.app import App, attach, create_app
from streams.faust.membership import leave_for_good
from streams.faust.watch import ConsumerWatch

log = structlog.get_logger(__name__)


async def run(settings: Settings, config: Config) -> None:
    """Run until SIGTERM or SIGINT.

    Raises CannotContinue if Faust stops by itself, AddressTaken, InvalidSettings, LogUnavailable, StoreUnavailable.
    """
    partitions = await asyncio.to_thread(partition_count, settings.kafka, settings.events_topic)
    identity = TopicIdentity(settings.kafka, settings.events_topic)
    topic_id = await asyncio.to_thread(identity.read)
    group = group_of(settings.topic_prefix)
    await asyncio.to_thread(check_access, settings.kafka, group, {settings.events_topic: [READ]})
    app = create_app(settings, group, partitions)
    async with Process("analytics", settings) as process:
        store = await FigureStore.connect(settings.database_url, pool_size=2)
        process.on_stop(store.close)
        follower = Follower(book=Book(store, config))
        attach(app, follower.run, settings.events_topic)
        places = GroupPositions(settings.kafka, group, settings.events_topic)
        process.on_stop(partial(asyncio.to_thread, places.close))
        watch = ConsumerWatch(
            app,
            follower.retry,
            places,
            settings.events_topic,
            limit_s=settings.stuck_after_s,
            join_s=2 * settings.session_s,
            identity=identity,
            topic_id=topic_id,
        )
        await process.begin(watch.ready, stuck=watch.checks)
        process.on_stop(partial(_leave, app, process.stopping))
        if not process.stopping.is_set():
            process.watch()
            await app.start()
            watch.is_up = True
            log.info("analytics.started", action="analytics.started", group=group, partitions=partitions)
        while not process.stopping.is_set():
            if (reason := watch.stopped()) is not None:
                raise CannotContinue(reason)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.stopping.wait(), 0.5)


async def _leave(app: App, stopping: asyncio.Event) -> None:
    if stopping.is_set():
        leave_for_good(app)
    await app.stop()
