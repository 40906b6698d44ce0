"""A limit of the gateway: its own publisher without HTTP. Prints its rate as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime

import uvloop

from bench.load import Load, record
from gateway.metrics import GatewayMetrics
from gateway.publisher import Publisher
from schemas.kafka_access import KafkaAccess


async def main(bootstrap: str, topic: str, records: int, at_once: int) -> None:
    """Publish `records` records, with `at_once` of them waiting for the brokers' confirmation at any time."""
    received_at = datetime.now(UTC)
    ready = [record(event, received_at) for event in Load(records).bodies()]
    publisher = Publisher(KafkaAccess(bootstrap), topic, GatewayMetrics())
    await publisher.start()
    left = iter(ready)

    async def publish_all() -> None:
        for key, value, headers in left:
            await publisher.publish(key.encode(), value, tuple(headers))

    key, value, headers = ready[0]
    await publisher.publish(key.encode(), value, tuple(headers))  # connect before the time is measured
    started = time.perf_counter()
    await asyncio.gather(*(publish_all() for _ in range(at_once)))
    seconds = time.perf_counter() - started
    await publisher.close()
    print(json.dumps({"per_s": records / seconds}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
