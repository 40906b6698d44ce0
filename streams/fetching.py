"""Between Kafka and Faust: how long a fetch may wait at the broker for something to come.

Faust has 1.5 s written into it. A client asks each broker for one fetch at a time; so when a rebalance ends, and the
last question was for a changelog that holds nothing new, the events wait behind it for that long (docs/scaling.md).
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers import aiokafka as driver

_WAIT_MS = 100
"""Ten small questions a second and broker from a worker that has nothing to do."""


class FetchingThread(driver.AIOKafkaConsumerThread):
    """Faust's thread, whose consumer does not wait that long."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _WAIT_MS
        return consumer
