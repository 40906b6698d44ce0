"""A limit of the worker: the processor fed from memory: the same decoding, rules and SQL without Kafka and Faust."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from zlib import crc32

import uvloop

from bench.load import Load, record
from eventlog.dead_letters import DeadLetterPublisher
from eventlog.topics import ensure_topics
from schemas.record import Record, record_of
from schemas.settings import load_config, load_settings
from sinks.postgres.store import Store
from streams.process import Processor
from streams.rules.catalog import RULES


def batches(load: Load, partitions: int, size: int) -> Iterator[list[Record]]:
    """Yield batches of one partition each, as aiokafka returns them."""
    received_at = datetime.now(UTC)
    waiting: list[list[Record]] = [[] for _ in range(partitions)]
    for number, event in enumerate(load.bodies()):
        key, value, headers = record(event, received_at)
        partition = crc32(key.encode()) % partitions
        waiting[partition].append(
            record_of("memory", partition, number, key.encode(), value, tuple(headers), time.time())
        )
        if len(waiting[partition]) >= size:
            yield waiting[partition]
            waiting[partition] = []
    yield from filter(None, waiting)


async def main(events: int, customers: int, lanes: int, prefix: str = "", size: int = 0) -> None:
    """Print the rate with `lanes` batches of different partitions in flight.

    `prefix` is part of all ids; `size` is the number of events in a batch, by default the worker's.
    """
    settings = load_settings()
    ensure_topics(settings)
    store = await Store.connect(settings.database_url, pool_size=lanes)
    letters = DeadLetterPublisher(settings.kafka, settings.dead_topic)
    processor = Processor(
        store=store,
        dead_letters=letters,
        rules=RULES,
        config=load_config(settings.config_path),
        group=f"memory{prefix}",
        code_version="bench",
    )
    ready = list(batches(Load(events, customers, prefix=prefix), 12, size or settings.batch_size))
    of_lane: list[list[list[Record]]] = [[] for _ in range(lanes)]
    for batch in ready:
        of_lane[batch[0].partition % lanes].append(batch)

    async def run(lane: Sequence[Sequence[Record]]) -> None:
        for batch in lane:
            await processor.process(batch)

    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # the same as in the worker
    started, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(run, of_lane))
    seconds, spent = time.perf_counter() - started, time.process_time() - spent
    await store.close()
    letters.close()
    print(json.dumps({"events_per_s": events / seconds, "cpu_ms": 1000 * spent / events}))


if __name__ == "__main__":
    count, customers, lanes, *more = sys.argv[1:]
    prefix, size = more or ("", "0")
    uvloop.run(main(int(count), int(customers), int(lanes), prefix, int(size)))
