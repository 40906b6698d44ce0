"""A limit of the worker: aiokafka's `getmany` and orjson, without Faust. Prints its rate as JSON."""

from __future__ import annotations

import json
import sys
import time

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]  # aiokafka ships no types


async def main(bootstrap: str, topic: str, events: int) -> None:
    """Consume and decode `events` events; time is measured from the first batch on."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=f"{topic}.plain.{time.time_ns()}", auto_offset_reset="earliest"
    )
    await consumer.start()
    count, first, started = 0, 0, 0.0
    try:
        while count < events:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=500)).values():
                for record in records:
                    orjson.loads(record.value)
                count += len(records)
            if not first and count:
                first, started = count, time.perf_counter()
        print(json.dumps({"events_per_s": (count - first) / (time.perf_counter() - started)}))
    finally:
        await consumer.stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
