"""Prometheus metrics of each Faust consumer (worker, analytics): lag, rebalances, commits and changelog writes."""

# ruff: noqa: ARG002  # Faust passes all these arguments
from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from faust.sensors import Sensor
from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)

LAG = Gauge(
    "billing_consumer_lag_records", "Records of an assigned partition that the group has not committed", ["partition"]
)
REBALANCES = Counter("billing_consumer_rebalances_total", "Times the group's partitions were reassigned")
REBALANCE_SECONDS = Histogram(
    "billing_consumer_rebalance_seconds",
    "Pause of a rebalance, to the end of the table's recovery",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120),
)
COMMIT_SECONDS = Histogram("billing_consumer_commit_seconds", "Duration of an offset commit", buckets=_SECONDS)
PRODUCE_SECONDS = Histogram(
    "billing_consumer_produce_seconds", "From sending a changelog record to the brokers' confirmation", buckets=_SECONDS
)
PRODUCE_FAILURES = Counter("billing_consumer_produce_failures_total", "Changelog records that the brokers refused")

REMOVED = Counter("billing_consumer_removed_records_total", "Records that Kafka deleted before the group had read them")


class KafkaSensor(Sensor):
    """Records what Faust reports about Kafka. Ignores its reports about single messages, which are expensive."""

    def on_rebalance_start(self, app: Any) -> dict[str, Any]:
        REBALANCES.inc()
        return {"began": time.monotonic()}

    def on_rebalance_end(self, app: Any, state: Any) -> None:
        REBALANCE_SECONDS.observe(time.monotonic() - state["began"])

    def on_commit_initiated(self, consumer: Any) -> float:
        return time.monotonic()

    def on_commit_completed(self, consumer: Any, state: Any) -> None:
        COMMIT_SECONDS.observe(time.monotonic() - state)

    def on_send_initiated(self, producer: Any, topic: str, message: Any, keysize: int, valsize: int) -> float:
        return time.monotonic()

    def on_send_completed(self, producer: Any, state: Any, metadata: Any) -> None:
        PRODUCE_SECONDS.observe(time.monotonic() - state)

    def on_send_error(self, producer: Any, exc: BaseException, state: Any) -> None:
        PRODUCE_FAILURES.inc()


def show_lag(lags: Mapping[int, int]) -> None:
    """Sets the lag of the assigned partitions and removes all others."""
    LAG.clear()
    for partition, lag in lags.items():
        LAG.labels(str(partition)).set(lag)
