"""Compares the whole system with the handler that a team would write by hand, in turns on the same servers.

In each round: the handler; ours with mails queued, which is what the handler does; ours with a dispatcher that sends
every mail over SMTP. Each is warmed up by the same events before it is measured. Broker and Postgres serve all rounds.
They are warmed up by a whole load, since it takes tens of thousands of events until the broker's JVM has compiled its
code: an event costs it 0.38 ms of CPU time at first, and 0.26 later.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import asyncpg

from bench.by_hand import TABLES
from bench.drain import worker_of
from bench.figures import Figures, Ratio, percentiles
from bench.gateway import gateway_of
from bench.load import Load
from bench.mails import dispatcher_of
from bench.place import SECRET, BenchServers, Site
from bench.posting import Posted, post_all, requests_of
from bench.processes import cpu_seconds, running
from bench.warm_up import EVENTS, warm_up
from local.stack.ports import free_port, is_free
from local.waiting import eventually, wait_until

CONNECTIONS = 64
BY_HAND, QUEUED, SENT = "handler by hand", "ours, mails queued", "ours, mails sent"
MAIL = "a mail"
_WITHIN_S = 300.0

_COMMITTED = "SELECT count(*) >= $1 FROM billing.events"
_LAST_COMMIT = "SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 FROM billing.events"
_NONE_DUE = """
SELECT NOT EXISTS (SELECT FROM billing.emails WHERE status IN ('queued', 'sending') AND next_attempt_at <= now())
"""
_LAST_SENT = "SELECT extract(epoch FROM max(sent_at))::float8 FROM billing.emails"
_SENT = "SELECT count(*) FROM billing.emails WHERE status = 'sent'"


@dataclass(slots=True)
class Rival:
    """A running system: where it takes requests, and its processes by name."""

    port: int
    processes: Mapping[str, int] = field(default_factory=dict)
    sends: bool = False


async def rivals(place: BenchServers, figures: Figures, rounds: int, events: int) -> None:
    """Measure the three in turns in each round. Raises RunFailed, NotAccepted, TooLate."""
    await _warm_up_servers(place, events)
    for _ in range(rounds):
        site = await place.site("hand")
        with _by_hand(site) as rival:
            await _measure(place, figures, BY_HAND, site, rival, events)
        for name in (QUEUED, SENT):
            site = await place.site("ours")
            with _ours(site, sends=name == SENT) as rival:
                await _measure(place, figures, name, site, rival, events)
    figures.ratios += [
        Ratio(QUEUED, BY_HAND),
        Ratio(SENT, BY_HAND),
        Ratio(f"{QUEUED}: p99 of the answer", f"{BY_HAND}: p99 of the answer"),
    ]


async def _warm_up_servers(place: BenchServers, events: int) -> None:
    site = await place.site("warm")
    connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
    try:
        with _ours(site, sends=True) as rival:
            await _until_done(connection, rival, await warm_up(rival.port, CONNECTIONS, events))
    finally:
        await connection.close()


async def _measure(place: BenchServers, figures: Figures, name: str, site: Site, rival: Rival, events: int) -> None:
    connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
    is_ours = name != BY_HAND
    try:
        if not is_ours:
            await connection.execute(TABLES)
        warm = await warm_up(rival.port, CONNECTIONS, min(EVENTS, events))
        if is_ours:
            await _until_done(connection, rival, warm)
        warm_mails = await connection.fetchval(_SENT)
        processes = {**place.servers, **rival.processes}
        before = {process: cpu_seconds(pid) for process, pid in processes.items()}
        load = Load(events)
        posted = await post_all(rival.port, requests_of(list(load.bodies()), "127.0.0.1"), CONNECTIONS)
        ended = posted.ended
        if is_ours:
            await _until_done(connection, rival, warm + load.distinct)
            ended = await connection.fetchval(_LAST_SENT if rival.sends else _LAST_COMMIT)
        spent = {process: cpu_seconds(pid) - before[process] for process, pid in processes.items()}
        if rival.sends:
            mails = await connection.fetchval(_SENT) - warm_mails
            figures.add(f"{name}: mails for each event", mails / events, "")
            figures.add(MAIL, 1000 * spent["dispatcher"] / max(1, mails), "CPU ms")
    finally:
        await connection.close()
    _report(figures, name, posted, events / (ended - posted.begun), {k: 1000 * v / events for k, v in spent.items()})


def _report(figures: Figures, name: str, posted: Posted, per_s: float, cpu_ms: Mapping[str, float]) -> None:
    figures.add(name, per_s, "events/s")
    for label, value in zip(("p50", "p95", "p99"), percentiles(posted.latencies_ms), strict=True):
        figures.add(f"{name}: {label} of the answer", value, "ms")
    for process, milliseconds in cpu_ms.items():
        figures.add(f"{name}: {process}", milliseconds, "CPU ms/event")


async def _until_done(connection: asyncpg.Connection[asyncpg.Record], rival: Rival, count: int) -> None:
    await eventually(
        lambda: connection.fetchval(_COMMITTED, count), "all events to be committed", within_s=_WITHIN_S, every_s=0.2
    )
    if rival.sends:
        await eventually(
            lambda: connection.fetchval(_NONE_DUE), "all mails to be sent", within_s=_WITHIN_S, every_s=0.2
        )


@contextmanager
def _by_hand(site: Site) -> Iterator[Rival]:
    port, log = free_port(), site.folder / "by-hand.log"
    url = site.settings.database_url.get_secret_value()
    command = [sys.executable, "-m", "bench.by_hand", str(port), SECRET, url]
    with running(command, site.environment(), log) as process:
        wait_until(lambda: not is_free(port), "the handler", within_s=30, process=process, log=log)
        time.sleep(1)
        yield Rival(port, {"handler": process.pid})


@contextmanager
def _ours(site: Site, *, sends: bool) -> Iterator[Rival]:
    with ExitStack() as stack:
        processes = {"worker": stack.enter_context(worker_of(site)).pid}
        server = stack.enter_context(gateway_of(site))
        processes["gateway"] = server.pid
        if sends:
            processes |= stack.enter_context(dispatcher_of(site))
        yield Rival(server.port, processes, sends)
