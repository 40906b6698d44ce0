"""Beside each Faust consumer (worker, analytics): how it gets on with Kafka, in Prometheus' conventions."""

# ruff: noqa: ARG002  # Faust calls a sensor's methods with all of this
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
REBALANCES = Counter("billing_consumer_rebalances_total", "Times the group's partitions were dealt out anew")
REBALANCE_SECONDS = Histogram(
    "billing_consumer_rebalance_seconds",
    "Standstill of a rebalance, to the end of the table's recovery",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120),
)
COMMIT_SECONDS = Histogram("billing_consumer_commit_seconds", "An offset commit, to its answer", buckets=_SECONDS)
PRODUCE_SECONDS = Histogram(
    "billing_consumer_produce_seconds", "A changelog record handed over, to the brokers' confirmation", buckets=_SECONDS
)
PRODUCE_FAILURES = Counter("billing_consumer_produce_failures_total", "Changelog records that the brokers did not take")


class KafkaSensor(Sensor):
    """What Faust tells of its dealings with Kafka. What it tells of each message is left alone: that has a price."""

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
    """The lag of the partitions that are ours now; those that are no more go."""
    LAG.clear()
    for partition, lag in lags.items():
        LAG.labels(str(partition)).set(lag)
