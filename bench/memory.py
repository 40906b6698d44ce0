"""Measures the cost of known event ids: the worker's memory with millions of them, and the recovery of its table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import orjson

from bench.drain import worker_of
from bench.figures import Figures
from bench.place import Place, Site
from bench.processes import resident_mb
from eventlog import client
from streams.faust.app import group_of
from streams.faust.seen import encode_page

_PAGE = 500
"""Ids per page: as many as the worker writes for one batch of one partition under load."""


async def memory(place: Place, figures: Figures, counts: list[int]) -> None:
    """Start one worker that owns all partitions for each count of known ids, and measure its memory and start."""
    site = await place.site("memory")
    known, seconds_for_none = 0, 0.0
    for count in sorted(counts):
        await asyncio.to_thread(_make_known, site, known, count)
        known = count
        begun = time.perf_counter()
        with worker_of(site) as worker:
            seconds = time.perf_counter() - begun
            figures.add(f"worker that knows {count:,} ids", resident_mb(worker.pid), "MB")
            figures.add(f"worker that knows {count:,} ids: from its start to ready", seconds, "s")
        if not count:
            seconds_for_none = seconds
    if known:
        spent = (seconds - seconds_for_none) / (known / 1e6)
        figures.add("recovery of its table", spent, "s per million ids")


def _make_known(site: Site, known: int, count: int) -> None:
    topic = f"{group_of(site.settings.topic_prefix, frozenset())}-seen-changelog"
    producer = client.producer(site.settings.kafka, client_id="billing-bench")
    for first in range(known, count, _PAGE):
        partition = first // _PAGE % site.partitions
        page = encode_page(int(time.time()), list(_ids(first, min(_PAGE, count - first))))
        key = orjson.dumps(f"{partition}:{first}")  # the format in which Faust writes the text keys of a table
        producer.produce(topic, key=key, value=page, partition=partition)
        producer.poll(0)
    if producer.flush(120):
        raise RuntimeError("Kafka did not accept the table within two minutes")


def _ids(first: int, count: int) -> Iterator[str]:
    """Yield ids of the same length as Stripe's."""
    return (f"evt_1{number:023d}" for number in range(first, first + count))
