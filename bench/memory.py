"""Measures the cost of known event ids: the worker's memory with millions of them, and the recovery of its table."""

from __future__ import annotations

import asyncio
import time

from bench.drain import worker_of
from bench.figures import Figures
from bench.known import make_known, make_known_singly
from bench.place import BenchServers, Site
from bench.processes import resident_mb

RATES = (1.0, 10.0, 100.0)
"""Events per second of the traffic that leaves the ids. The slower it is, the smaller are its batches."""
_SATURATED = 1000.0
_SINGLE_SHARE = 10
"""Pages of one id are measured with a tenth of the ids, because a million would take two minutes."""


async def memory(place: BenchServers, figures: Figures, counts: list[int]) -> None:
    """Start one worker that owns all partitions for each count of known ids, and measure its memory and start.

    Then the same with ids from slow traffic, and with pages of one id as version 0.1.0 wrote them.
    """
    site = await place.site("memory")
    known, seconds_for_none, mb_for_none = 0, 0.0, 0.0
    for count in sorted(counts):
        await asyncio.to_thread(make_known, site, known, count - known, _SATURATED)
        known = count
        seconds, mb = await asyncio.to_thread(_start, site, figures, f"worker that knows {count:,} ids")
        if not count:
            seconds_for_none, mb_for_none = seconds, mb
    if not known:
        return
    figures.add("recovery of its table", (seconds - seconds_for_none) / (known / 1e6), "s per million ids")
    figures.add("its memory for an id", (mb - mb_for_none) * 2**20 / known / 1000, "kB")
    from_rates = min(count for count in counts if count)
    for rate in RATES:
        site = await place.site("memory")
        records = await asyncio.to_thread(make_known, site, 0, from_rates, rate)
        name = f"worker that knows {from_rates:,} ids from {rate:g} events/s"
        figures.add(f"{name}: records on the changelog", records, "")
        await asyncio.to_thread(_start, site, figures, name)
    site, single = await place.site("memory"), max(1, from_rates // _SINGLE_SHARE)
    await asyncio.to_thread(make_known_singly, site, single)
    await asyncio.to_thread(_start, site, figures, f"worker that knows {single:,} ids in pages of one id")


def _start(site: Site, figures: Figures, name: str) -> tuple[float, float]:
    """Starts and stops a worker; returns the seconds until it is ready, and its memory in MB."""
    begun = time.perf_counter()
    with worker_of(site, BILLING_SEEN_HOURS="8760") as worker:
        seconds, mb = time.perf_counter() - begun, resident_mb(worker.pid)
    figures.add(name, mb, "MB")
    figures.add(f"{name}: from its start to ready", seconds, "s")
    return seconds, mb
