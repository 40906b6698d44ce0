"""`billing analytics`: wires the consumer that keeps the figures, and counts them anew."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from functools import partial
from typing import Annotated

import faust
import structlog
import typer
import uvloop
from confluent_kafka import KafkaException, Message
from confluent_kafka.admin import AdminClient

from analytics.book import Book, Counted
from analytics.consumer import Follower, Read, attach, create_app, group_of
from analytics.store import FigureStore
from eventlog.lag import GroupPlaces
from eventlog.lookup import headers_of
from eventlog.tail import FROM_START, LogTail
from ops.commands.terminal import EXIT_INVALID_SETTINGS, settings_and_config
from ops.runtime.health import OpsAddressTaken, OpsServer
from ops.runtime.watchdog import Watchdog
from schemas.errors import LogUnavailable, StoreUnavailable
from schemas.record import decode_headers
from schemas.settings import Config, InvalidSettings, Settings
from streams.faust.commit_watch import CommitWatch
from streams.faust.sensor import show_lag

log = structlog.get_logger(__name__)

EXIT_UNAVAILABLE = 3
_STUCK_S = 60.0
"""How long Postgres may hold it up before /readyz says so."""
_OWNERS = 500

app = typer.Typer(invoke_without_command=True)


class AnalyticsCrashed(Exception):
    """Faust gave up; the supervisor starts a new process."""


@app.callback()
def analytics(context: typer.Context) -> None:
    """Keep MRR, payments and recoveries up to date, as a consumer group of its own.

    Example: billing analytics &   then   billing mrr --by plan

    SIGTERM ends it with exit code 0. Exits 2 if a setting is unusable, 70 when it met what it cannot help.
    """
    if context.invoked_subcommand is not None:
        return
    settings, config = settings_and_config()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run(settings, config))
        except InvalidSettings as error:
            typer.echo(f"billing analytics: {error}", err=True)
            raise typer.Exit(EXIT_INVALID_SETTINGS) from None
        except (AnalyticsCrashed, OpsAddressTaken, StoreUnavailable) as error:
            typer.echo(f"billing analytics: {error}", err=True)
            raise typer.Exit(1) from None


@app.command()
def recount(
    forget: Annotated[
        bool, typer.Option("--forget", help="Drop all facts first: figures then begin where the log begins.")
    ] = False,
) -> None:
    """Count all figures anew, from the topic's start: after prices moved between plans, or to be sure.

    Example: billing analytics recount

    It may run beside the consumer. Facts that are older than the log are kept. Says how many rows were not as they
    should be. Exits 2 if a setting is unusable, 3 if Kafka or Postgres does not answer.
    """
    settings, config = settings_and_config()
    try:
        counted, owners = asyncio.run(count_anew(settings, config, forget=forget))
    except InvalidSettings as error:
        typer.echo(f"billing analytics recount: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    except (LogUnavailable, StoreUnavailable) as error:
        typer.echo(f"billing analytics recount: {error}", err=True)
        raise typer.Exit(EXIT_UNAVAILABLE) from None
    typer.echo(
        f"{counted.facts} facts from the log ({counted.unreadable} records could not be read), {owners} owners: "
        f"{counted.rows} rows of figures were changed"
    )


async def run(settings: Settings, config: Config) -> None:
    """Until SIGTERM or SIGINT. Raises AnalyticsCrashed, InvalidSettings, OpsAddressTaken, StoreUnavailable."""
    partitions = await asyncio.to_thread(_partitions_of, settings.kafka_bootstrap, settings.events_topic)
    group = group_of(settings.topic_prefix)
    faust_app = create_app(settings)
    store = await FigureStore.connect(settings.database_url, pool_size=2)
    follower = Follower(
        book=Book(store, config), batch_size=settings.batch_size, batch_within_s=settings.batch_within_s
    )
    attach(faust_app, follower, settings.events_topic)
    places = GroupPlaces(settings.kafka_bootstrap, group, settings.events_topic)
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


async def count_anew(settings: Settings, config: Config, *, forget: bool = False) -> tuple[Counted, int]:
    """All facts of the log once more, then all figures of all owners; and how many owners there are.

    Raises LogUnavailable, StoreUnavailable. Done again after either, it goes on from whatever it had reached.
    """
    store = await FigureStore.connect(settings.database_url)
    book = Book(store, config)
    tail = await asyncio.to_thread(LogTail, settings.kafka_bootstrap, settings.events_topic, begin=FROM_START)
    everything = {(settings.events_topic, partition) for partition in tail.bounds}
    try:
        if forget:
            async with store.transaction(everything) as transaction:
                await transaction.forget()
        counted, owners, last = Counted(), 0, None
        batches = tail.read(follow=False)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            counted += await book.take([_read(message) for message in batch], replacing=True)
        while True:
            async with store.transaction(everything) as transaction:
                page = await transaction.owners_after(last, _OWNERS)
                if not page:
                    break
                counted += Counted(rows=await book.recompute(transaction, page))
            owners, last = owners + len(page), page[-1]
        async with store.transaction(everything) as transaction:
            counted += Counted(rows=await transaction.drop_strays())
    finally:
        await asyncio.to_thread(tail.close)
        await store.close()
    return counted, owners


def _read(message: Message) -> Read:
    headers = decode_headers(headers_of(message))
    return Read(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        headers.get("type", ""),
        message.value(),
    )


def _offsets(faust_app: faust.App, follower: Follower, places: GroupPlaces, commits: CommitWatch) -> str | None:
    """For the watchdog: does what is committed move? Trouble that is waited out in sight is no stillness."""
    assigned = faust_app.consumer.assignment() if faust_app.started else ()
    ours = {tp.partition for tp in assigned}
    of_ours = {partition: place for partition, place in (places.read() or {}).items() if partition in ours}
    show_lag({partition: place.lag for partition, place in of_ours.items()})
    is_excused = not faust_app.started or faust_app.rebalancing or follower.troubled_since is not None
    return commits.look(time.monotonic(), of_ours, is_excused=is_excused)


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
