"""Measures end to end: from the time a request is due until its event is committed, at saturation and at half load.

Each gateway and worker is warmed up before it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from bench.drain import worker_of
from bench.figures import Figures, percentiles
from bench.gateway import gateway_of
from bench.load import Json, Load
from bench.place import BenchServers, Site
from bench.posting import Posted, post_all, requests_of
from bench.processes import cpu_seconds
from bench.warm_up import EVENTS, warm_up
from local.waiting import eventually

CONNECTIONS = 64
SATURATION, HALF = "end to end at saturation", "end to end at half load"
_COMMITTED_WITHIN_S = 120.0

_COMMITTED = """
SELECT event_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at FROM billing.events
"""


async def whole(place: BenchServers, figures: Figures, rounds: int, events: int) -> None:
    """Saturate one gateway and one worker in each round, then load a fresh pair with half of the rate reached."""
    for _ in range(rounds):
        per_s = await _round(place, figures, SATURATION, events, None)
        await _round(place, figures, HALF, min(events, int(per_s / 2 * 20)), per_s / 2)


async def _round(place: BenchServers, figures: Figures, name: str, events: int, per_s: float | None) -> float:
    """Return events per second, from the first request to the last commit."""
    site = await place.site("whole")
    load = list(Load(events).bodies())
    ids = {event["id"] for event in load}
    with worker_of(site) as worker, gateway_of(site) as gateway:
        warm = await warm_up(gateway.port, CONNECTIONS, min(EVENTS, events))
        await _until_committed(site, warm)
        before = {server: cpu_seconds(pid) for server, pid in place.servers.items()}
        idle = {"gateway": cpu_seconds(gateway.pid), "worker": cpu_seconds(worker.pid)}
        posted = await post_all(gateway.port, requests_of(load, "127.0.0.1"), CONNECTIONS, per_s)
        await _until_committed(site, warm + len(ids))
        spent = {"gateway": cpu_seconds(gateway.pid), "worker": cpu_seconds(worker.pid)}
        spent = {process: seconds - idle[process] for process, seconds in spent.items()}
    spent |= {server: cpu_seconds(pid) - before[server] for server, pid in place.servers.items()}
    committed = await _committed(site)
    took = max(committed[id_] for id_ in ids) - posted.begun
    figures.add(name, events / took, "events/s")
    for label, value in zip(("p50", "p95", "p99"), percentiles(_latencies(posted, load, committed)), strict=True):
        figures.add(f"{name}: {label} to committed", value, "ms")
    for process, seconds in spent.items():
        figures.add(f"{name}: {process}", 1000 * seconds / events, "CPU ms/event")
    return events / took


def _latencies(posted: Posted, load: Sequence[Json], committed: dict[str, float]) -> list[float]:
    """Return the milliseconds from the first delivery of each event to its commit."""
    first: dict[str, float] = {}
    for event, due in zip(load, posted.due, strict=True):
        first.setdefault(event["id"], due)
    return [1000 * (committed[id_] - due) for id_, due in first.items()]


async def _until_committed(site: Site, count: int) -> None:
    connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
    try:
        await eventually(
            lambda: connection.fetchval("SELECT count(*) >= $1 FROM billing.events", count),
            "all events to be committed", within_s=_COMMITTED_WITHIN_S, every_s=0.2,
        )  # fmt: skip
    finally:
        await connection.close()


async def _committed(site: Site) -> dict[str, float]:
    connection = await asyncpg.connect(site.settings.database_url.get_secret_value())
    try:
        return {row["event_id"]: row["at"] for row in await connection.fetch(_COMMITTED)}
    finally:
        await connection.close()
