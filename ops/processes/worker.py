"""The main function of `billing worker`: applies events until it is stopped or cannot continue."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from eventlog.access import READ, WRITE, check_access
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.lag import GroupPositions
from eventlog.ownership import claim
from eventlog.retention import kafka_keeps, warn_if_endless, warn_if_too_long
from eventlog.topic_settings import TopicIdentity
from eventlog.topics import changelog_of, check_partitions
from ops.processes.skeleton import Process
from ops.processes.topics import log_differences
from ops.runtime.exit_codes import CannotContinue, ExitCode
from ops.runtime.operator import operator
from ops.runtime.printable import error_line
from schemas.errors import DatabaseBehind, StoreUnavailable
from schemas.plugin_registry import installed
from schemas.settings import Config, Settings
from sinks.postgres.brakes import Brakes
from sinks.postgres.positions import identity_of
from sinks.postgres.store import Store
from streams import metrics
from streams.agent import LANES, Agent, rules_of
from streams.brake import Brake, BrakeTripped
from streams.build import build_id
from streams.faust.app import App, attach, create_app, group_of
from streams.faust.changelog import ensure_changelog
from streams.faust.consume import exit_uncommitted
from streams.faust.membership import leave_for_good
from streams.faust.pages import PAGE_SPAN_S
from streams.faust.seen import SeenEvents
from streams.faust.watch import ConsumerWatch
from streams.hold import BrakeGate, limits_of
from streams.positions import Positions
from streams.process import Processor
from streams.rules.catalog import RULES, STREAMS, stream_of
from streams.rules.registry import OTHER, Rule

log = structlog.get_logger()

ALL_STREAMS = frozenset(STREAMS) | {OTHER}
"""What `--only` and `--without` of `billing worker` may name."""
_HOUSEKEEPING_S = 1.0
_LOOK_S = 5.0
"""How often a worker checks that the database still has what it has committed."""


async def run(
    settings: Settings,
    config: Config,
    streams: frozenset[str],
    *,
    without: frozenset[str] = frozenset(),
    rules: Mapping[str, Rule] = RULES,
    stream_of: Callable[[str], str] = stream_of,
    resume_after_brake: bool = False,
    bury: frozenset[tuple[str, int, int]] = frozenset(),
) -> None:
    """Run until SIGTERM or SIGINT. `streams` empty means all streams, less those in `without`.

    `bury` names records (topic, partition, offset) that are dead-lettered without being read.

    Raises CannotContinue if Faust stops by itself, AddressTaken, InvalidSettings if there is no topic to read, and
    LogUnavailable or StoreUnavailable if Kafka or Postgres does not answer at the start.
    """
    group = group_of(settings.topic_prefix, streams)
    partitions = await asyncio.to_thread(check_partitions, settings, (changelog_of(group),))
    identity = TopicIdentity(settings.kafka, settings.events_topic)
    topic_id = await asyncio.to_thread(identity.read)
    needed = {settings.events_topic: [READ], settings.dead_topic: [WRITE]}
    await asyncio.to_thread(check_access, settings.kafka, group, needed)
    keeps = await asyncio.to_thread(kafka_keeps, settings)
    warn_if_too_long(keeps, config.rules.erase_after_days)
    warn_if_endless(keeps)
    await log_differences(settings, config, (changelog_of(group),))
    if without:  # keeps the group of all streams, and so continues at its offsets
        streams = ALL_STREAMS - without
    app = create_app(settings, group, partitions)
    code_version = settings.code_version or build_id(rules, installed())
    brake = Brake(limits_of(settings))
    hold = BrakeGate(brakes=Brakes(settings.database_url), group=group, code_version=code_version)
    seen = SeenEvents(app, partitions, horizon_s=settings.seen_hours * 3600)
    async with Process("worker", settings) as process:
        store = await Store.connect(settings.database_url, pool_size=LANES)
        process.on_stop(store.close)
        positions = Positions(
            store, group, drop=seen.drop, topic_ids={settings.events_topic: topic_id} if topic_id else {}
        )
        dead_letters = DeadLetterPublisher(settings.kafka, settings.dead_topic)
        process.on_stop(partial(asyncio.to_thread, dead_letters.close))
        agent = Agent(
            processor=Processor(
                store=store,
                dead_letters=dead_letters,
                rules=rules_of(streams, rules),
                config=config,
                group=group,
                code_version=code_version,
                brake=brake,
                kafka_keeps=keeps,
                bury=bury,
                positions=positions,
            ),
            seen=seen,
            stream_of=stream_of,
            streams=streams,
            hold=partial(_stop_braked, hold),
        )
        attach(
            app,
            agent.run,
            settings.events_topic,
            on_assigned=partial(_keep_only, seen, positions, settings),
            on_revoked=seen.write_all,
            resume=positions.resume,
            removed=positions.removed,
        )
        # Creates the series at 0: alerts on "no event since" need them from the start.
        for stream in streams or ALL_STREAMS:
            for outcome in ("applied", "dead"):
                metrics.EVENTS.labels(stream=stream, outcome=outcome)
        await asyncio.to_thread(
            ensure_changelog,
            settings.kafka,
            seen.changelog,
            partitions,
            settings.replication_factor,
            keep_s=settings.seen_hours * 3600 + PAGE_SPAN_S,
        )
        places = GroupPositions(settings.kafka, group, settings.events_topic)
        process.on_stop(partial(asyncio.to_thread, places.close))
        watch = ConsumerWatch(
            app,
            agent.retry,
            places,
            settings.events_topic,
            limit_s=settings.stuck_after_s,
            join_s=2 * settings.session_s,
            identity=identity,
            topic_id=topic_id,
            seen=seen,
        )
        await process.begin({"brake": lambda: hold.reason, **watch.ready}, stuck=watch.checks, mode=config.mode)
        await _claim_group(settings, group)
        process.on_stop(partial(_leave, app, seen, process.stopping))
        if resume_after_brake:
            await hold.brakes.release(group, operator(), let_die=settings.brake_window)
        brake.allow_more(await hold.until_released(process.stopping))
        if not process.stopping.is_set():
            process.watch()
            await app.start()
            watch.is_up = True
            _spare_collections()
            log.info("worker.started", action="worker.started", group=group, partitions=partitions)
            await _until_stopped(watch, seen, positions, process.stopping)


async def _claim_group(settings: Settings, group: str) -> None:
    """Raises InvalidSettings if another database than this one has the group's position."""
    identity = await identity_of(settings.database_url)
    if identity is not None:
        await asyncio.to_thread(
            claim, settings.kafka, group, identity.database_id, replication_factor=settings.replication_factor
        )


async def _leave(app: App, seen: SeenEvents, stopping: asyncio.Event) -> None:
    if stopping.is_set():
        seen.write_all()
        leave_for_good(app)
    await app.stop()


def _spare_collections() -> None:
    """Make the garbage collector run less often.

    A batch creates about ten thousand short-lived objects and almost no cycles. With Python's default thresholds the
    collector takes a tenth of the worker's time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _stop_braked(hold: BrakeGate, tripped: BrakeTripped) -> None:
    """Record the reason in Postgres, then end the process at once: an orderly stop would commit the failing batch."""
    await hold.write_down(tripped)
    error_line("worker", hold.reason)
    os._exit(ExitCode.BRAKED)


def _keep_only(seen: SeenEvents, positions: Positions, settings: Settings, partitions: set[int]) -> None:
    seen.keep_only(partitions)
    positions.keep_only(settings.events_topic, partitions)


async def _look(positions: Positions) -> None:
    """Ends the process at once, without a commit, if the database was restored under it."""
    try:
        await positions.look()
    except StoreUnavailable:
        return  # the next batch reports it, and the next look compares
    except DatabaseBehind as error:
        await positions.note_lost()
        exit_uncommitted("worker", error)


async def _until_stopped(watch: ConsumerWatch, seen: SeenEvents, positions: Positions, stopping: asyncio.Event) -> None:
    next_housekeeping = time.monotonic() + _HOUSEKEEPING_S
    next_look = time.monotonic() + _LOOK_S
    while not stopping.is_set():
        if (reason := watch.stopped()) is not None:
            raise CannotContinue(reason)
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + _LOOK_S
            await _look(positions)
        if time.monotonic() >= next_housekeeping:
            next_housekeeping = time.monotonic() + _HOUSEKEEPING_S
            seen.keep_house()
            metrics.KNOWN_IDS.set(len(seen))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), 0.5)
