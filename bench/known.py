"""Fills a worker's changelog with the pages that traffic of a given rate leaves on it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import orjson

from bench.place import Site
from eventlog import client
from streams.faust.app import group_of
from streams.faust.changelog import ensure_changelog
from streams.faust.pages import SettledPages, Write, encode_page

_KEEP_S = 365 * 86_400.0
_UNCOMPACTED_S = 2 * 3600.0
"""Age of the oldest replaced pages that are still on the topic: one closed segment and the open one."""


def make_known(site: Site, first: int, number: int, per_s: float) -> int:
    """Writes the pages of `number` ids that arrived at `per_s` events per second; returns the number of records."""
    return _produce(site, _left_on_topic(first, number, per_s, site.partitions))


def make_known_singly(site: Site, number: int) -> int:
    """Writes one page for each id, as version 0.1.0 did at less than 100 events per second."""
    now = int(time.time())
    places = ((n % site.partitions, n) for n in range(number))
    return _produce(site, ((p, f"{p}:{n}", encode_page(now, [_id(n).encode()])) for p, n in places))


def _left_on_topic(first: int, number: int, per_s: float, partitions: int) -> Iterator[Write]:
    """Yields the newest version of each page, and before them the older versions of the last two hours."""
    pages, newest, replaced = SettledPages(horizon_s=number / per_s), dict[str, Write](), list[Write]()
    end = time.time()
    now, n, step_s = end - number / per_s, 0, max(1.0, 1 / per_s)
    while n < number:
        batch: dict[int, list[str]] = {}
        for _ in range(min(max(1, round(per_s * step_s)), number - n)):
            batch.setdefault(n % partitions, []).append(_id(first + n))
            n += 1
        now += step_s
        writes = [write for partition, ids in batch.items() for write in pages.add(partition, first + n, ids, now)]
        for write in (*writes, *pages.due(now, after_s=0 if n == number else 30.0)):
            if now > end - _UNCOMPACTED_S and write[1] in newest:
                replaced.append(newest[write[1]])
            newest[write[1]] = write
    yield from replaced
    yield from newest.values()


def _produce(site: Site, writes: Iterator[Write]) -> int:
    topic = f"{group_of(site.settings.topic_prefix, frozenset())}-seen-changelog"
    ensure_changelog(site.settings.kafka, topic, site.partitions, 1, keep_s=_KEEP_S)
    producer, records = client.producer(site.settings.kafka, client_id="billing-bench"), 0
    for records, (partition, key, page) in enumerate(writes, 1):  # noqa: B007  # the last number is the count
        while True:
            try:  # Faust writes the text keys of a table as JSON
                producer.produce(topic, key=orjson.dumps(key), value=page, partition=partition)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(120):
        raise RuntimeError("Kafka did not accept the table within two minutes")
    return records


def _id(number: int) -> str:
    """Returns an id of the same length as Stripe's."""
    return f"evt_1{number:023d}"
