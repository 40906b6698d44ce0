"""A limit of the worker: a stock Faust agent on uvloop that only decodes each event. Prints its rate as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import faust
import uvloop


async def main(bootstrap: str, topic: str, events: int, folder: str) -> None:
    """Consume `events` events of `topic` and print the rate after the first hundred."""
    app = faust.App(
        f"{topic}.stock.{time.time_ns()}",
        broker=f"kafka://{bootstrap}",
        datadir=folder,
        store="memory://",
        web_enabled=False,
        autodiscover=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
    )
    done = asyncio.get_running_loop().create_future()
    count, started = 0, 0.0

    @app.agent(app.topic(topic, key_type=bytes, value_serializer="json"))
    async def stock(stream: Any) -> None:
        nonlocal count, started
        async for _ in stream:
            count += 1
            if count == 100:
                started = time.perf_counter()
            if count == events:
                done.set_result(time.perf_counter() - started)

    await app.start()
    seconds = await asyncio.wait_for(done, timeout=600)
    await app.stop()
    print(json.dumps({"events_per_s": (events - 100) / seconds}))


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # the consumer's thread creates a loop of its own
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
