"""Measures the worker on a backlog: rate and cost per event, from a full topic until every event is committed."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg

from bench.figures import Figures, Ratio
from bench.load import CUSTOMERS, Load, produce
from bench.place import BenchServers, Site
from bench.processes import answers, billing, cpu_seconds, measured, resident_mb, running
from eventlog.lag import lag_of
from local.stack.ports import free_port
from local.waiting import wait_until
from streams.faust.app import group_of

WORKER = "worker"
LIMITS = {
    "stock Faust, decodes only": "bench.stock_faust",
    "aiokafka getmany, decodes only": "bench.plain_aiokafka",
}
MEMORY = "same rules and statements from memory"

_PACE = """
WITH own AS (SELECT applied_at FROM billing.events WHERE event_id LIKE $1)
SELECT count(*) AS events, min(applied_at) AS first, max(applied_at) AS last,
       count(*) FILTER (WHERE applied_at = (SELECT min(applied_at) FROM own)) AS in_first
FROM own
"""
_SIZE = "SELECT pg_database_size(current_database())"


@dataclass(frozen=True, slots=True)
class Drained:
    """The result of draining a backlog.

    `per_s` is in events per second. `cpu_ms` (by process), `postgres_bytes` and `kafka_bytes` are per event.
    """

    per_s: float
    cpu_ms: dict[str, float]
    postgres_bytes: float
    kafka_bytes: float
    worker_mb: float


async def worker_drain(place: BenchServers, figures: Figures, rounds: int, events: int) -> None:
    """Measure the worker in each round, then each of its limits on the same topic."""
    for _ in range(rounds):
        load = Load(events)
        site = await filled(place, load)
        drained = await drain(place, site, load)
        figures.add(WORKER, drained.per_s, "events/s")
        for process, milliseconds in drained.cpu_ms.items():
            figures.add(f"{WORKER}: {process}", milliseconds, "CPU ms/event")
        figures.add(f"{WORKER}: in Postgres", drained.postgres_bytes, "bytes/event")
        for name, module in LIMITS.items():
            arguments = [site.settings.kafka_bootstrap, site.settings.events_topic, str(events)]
            if module == "bench.stock_faust":
                arguments.append(str(site.folder / "stock"))
            found = await asyncio.to_thread(measured, module, arguments, site.environment(), 60 + events / 200)
            figures.add(name, found["events_per_s"], "events/s")
        empty = await place.site("memory")
        arguments = [str(events), str(CUSTOMERS), "2"]
        found = await asyncio.to_thread(
            measured, "bench.from_memory", arguments, empty.environment(BILLING_LOG_LEVEL="warning"), 60 + events / 200
        )
        figures.add(MEMORY, found["events_per_s"], "events/s")
    figures.ratios += [
        Ratio(WORKER, "stock Faust, decodes only"),
        Ratio(WORKER, "aiokafka getmany, decodes only"),
        Ratio(WORKER, MEMORY),
    ]


async def backlogs(place: BenchServers, figures: Figures, sizes: list[int]) -> None:
    """Measure the cost of one event for backlogs of several sizes: it should not depend on the size."""
    for size in sizes:
        load = Load(size)
        found = await drain(place, await filled(place, load), load)
        at = f"backlog of {size:,}"
        figures.add(f"{at}: drained", found.per_s, "events/s")
        for process, milliseconds in found.cpu_ms.items():
            figures.add(f"{at}: {process}", milliseconds, "CPU ms/event")
        figures.add(f"{at}: in Postgres", found.postgres_bytes, "bytes/event")
        figures.add(f"{at}: in Kafka", found.kafka_bytes, "bytes/event")
        figures.add(f"{at}: worker's memory", found.worker_mb, "MB")
    if len(sizes) > 1:
        least, most = min(sizes), max(sizes)
        figures.ratios.append(Ratio(f"backlog of {most:,}: drained", f"backlog of {least:,}: drained"))


async def filled(place: BenchServers, load: Load, name: str = "drain") -> Site:
    """Return a site with the load on its topic and an empty database."""
    site = await place.site(name)
    await asyncio.to_thread(produce, site.settings, load)
    return site


@contextmanager
def worker_of(site: Site, name: str = WORKER, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker; enter the block when it is ready. `more` are variables of its environment."""
    port, log = free_port(), site.folder / f"{name}.log"
    environment = site.environment(BILLING_OPS_PORT=str(port), BILLING_STATE_DIR=str(site.folder / name), **more)
    with running(billing("worker"), environment, log) as process:
        wait_until(
            lambda: answers(f"http://127.0.0.1:{port}/readyz"), "the worker", within_s=60, process=process, log=log
        )
        yield process


async def drain(place: BenchServers, site: Site, load: Load) -> Drained:
    """Run one worker from its start to the end of the backlog. Raises RunFailed, TooLate."""
    settings, log = site.settings, site.folder / "worker.log"
    group = group_of(settings.topic_prefix, frozenset())

    def is_done() -> bool:
        lag = lag_of(settings.kafka, group, settings.events_topic)
        return lag is not None and not any(lag.values())

    bytes_before = await _ask(site, _SIZE)
    before = {name: cpu_seconds(pid) for name, pid in place.servers.items()}
    with running(billing("worker"), site.environment(), log) as process:
        within_s = 60 + load.events / 300
        await asyncio.to_thread(
            wait_until, is_done, "the backlog's end", within_s=within_s, every_s=2.0, process=process, log=log
        )
        spent = {WORKER: cpu_seconds(process.pid)}
        memory = resident_mb(process.pid)
    spent |= {name: cpu_seconds(pid) - before[name] for name, pid in place.servers.items()}
    pace = await _pace(site, load)
    if pace["events"] != load.distinct:
        raise AssertionError(f"{pace['events']} events in the ledger, {load.distinct} were sent")
    seconds = (pace["last"] - pace["first"]).total_seconds()
    # The time spent on the first batch lies before its `applied_at`, so its events are left out of the rate.
    # Duplicates are spread evenly over the load.
    share = (pace["events"] - pace["in_first"]) / pace["events"]
    kafka = sum(path.stat().st_size for path in place.kafka_data.glob(f"{settings.events_topic}-*/*.log"))
    return Drained(
        per_s=load.events * share / seconds if seconds else 0.0,
        cpu_ms={name: 1000 * value / load.events for name, value in spent.items()},
        postgres_bytes=(await _ask(site, _SIZE) - bytes_before) / pace["events"],
        kafka_bytes=kafka / load.events,
        worker_mb=memory,
    )


async def _pace(site: Site, load: Load) -> asyncpg.Record:
    connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
    try:
        found = await connection.fetchrow(_PACE, f"evt_{load.prefix}%")
    finally:
        await connection.close()
    if found is None:
        raise RuntimeError("the query returned no row")
    return found


async def _ask(site: Site, query: str) -> int:
    connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()
