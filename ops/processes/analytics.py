"""The main function of `billing analytics`: runs the consumer that keeps the figures."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from functools import partial

import faust
import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from analytics.book import Book
from analytics.consumer import Follower, attach, create_app, group_of
from analytics.store import FigureStore
from eventlog.lag import GroupPositions
from ops.runtime.health import OpsServer
from ops.runtime.watchdog import Watchdog
from schemas.settings import Config, InvalidSettings, Settings
from streams.faust.commit_watch import CommitWatch
from streams.faust.sensor import show_lag

log = structlog.get_logger(__name__)

EXIT_UNAVAILABLE = 3
_STUCK_S = 60.0
"""After this many seconds of failing batches /readyz reports it."""


class AnalyticsCrashed(Exception):
    """Faust stopped by itself. The process exits, and the supervisor should start a new one."""


async def run(settings: Settings, config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises AnalyticsCrashed, InvalidSettings, OpsAddressTaken, StoreUnavailable."""
    partitions = await asyncio.to_thread(_partitions_of, settings.kafka_bootstrap, settings.events_topic)
    group = group_of(settings.topic_prefix)
    faust_app = create_app(settings)
    store = await FigureStore.connect(settings.database_url, pool_size=2)
    follower = Follower(
        book=Book(store, config), batch_size=settings.batch_size, batch_within_s=settings.batch_within_s
    )
    attach(faust_app, follower, settings.events_topic)
    places = GroupPositions(settings.kafka_bootstrap, group, settings.events_topic)
    offsets = partial(_offsets, faust_app, follower, places, CommitWatch(settings.stuck_after_s))
    watchdog = Watchdog({"offsets": offsets}, limit_s=settings.stuck_after_s)
    health = OpsServer(
        settings.ops_host,
        settings.ops_port,
        {"faust": lambda: _faust_trouble(faust_app), "batches": lambda: _batch_trouble(follower)},
        alive={"progress": watchdog.trouble},
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    await health.start()
    try:
        watchdog.start()
        await faust_app.start()
        log.info("analytics.started", action="analytics.started", group=group, partitions=partitions)
        while not stopping.is_set():
            if faust_app.crashed or faust_app.should_stop:
                raise AnalyticsCrashed(f"Faust stopped: {faust_app.crash_reason!r}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), 0.5)
    finally:
        await watchdog.stop()
        await faust_app.stop()
        await health.stop()
        await asyncio.to_thread(places.close)
        await store.close()
    log.info("analytics.stopped", action="analytics.stopped", group=group)


def _offsets(faust_app: faust.App, follower: Follower, places: GroupPositions, commits: CommitWatch) -> str | None:
    """Check for the watchdog that committed offsets move. Retries that /readyz reports do not count as stuck."""
    partitions = {tp.partition for tp in faust_app.consumer.assignment()} if faust_app.started else set()
    assigned = {partition: place for partition, place in (places.read() or {}).items() if partition in partitions}
    show_lag({partition: place.lag for partition, place in assigned.items()})
    is_excused = not faust_app.started or faust_app.rebalancing or follower.troubled_since is not None
    return commits.look(time.monotonic(), assigned, is_excused=is_excused)


def _faust_trouble(faust_app: faust.App) -> str | None:
    if faust_app.crashed:
        return "Faust crashed"
    if not faust_app.started or faust_app.rebalancing or faust_app.in_recovery:
        return "starting or rebalancing"
    return None


def _batch_trouble(follower: Follower) -> str | None:
    since = follower.troubled_since
    if since is not None and time.monotonic() - since > _STUCK_S:
        return f"held up for {time.monotonic() - since:.0f} s: {follower.trouble}"
    return None


def _partitions_of(bootstrap: str, topic: str) -> int:
    try:
        found = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(topic, timeout=15).topics
    except KafkaException as error:
        raise InvalidSettings(f"BILLING_KAFKA_BOOTSTRAP: {bootstrap} does not answer: {error}") from None
    if topic not in found or not found[topic].partitions:
        raise InvalidSettings(f"there is no topic {topic}: run `billing topics` first")
    return len(found[topic].partitions)
