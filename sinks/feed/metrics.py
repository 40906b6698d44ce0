"""Prometheus metrics of the dispatcher of notifications. Label values are types, and destinations of the config."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge, Histogram

from schemas.feed_settings import TYPES
from sinks.outbox.metrics import LoopMetrics
from sinks.postgres.outboxes import NOTIFICATIONS


class FeedMetrics(LoopMetrics):
    """The metrics of one dispatcher."""

    def __init__(self, registry: CollectorRegistry, destinations: Iterable[str] = ()) -> None:
        super().__init__(
            NOTIFICATIONS,
            registry,
            noun="notifications",
            kinds=TYPES,
            paused_help="Always 0: a receiver that is away does not stop the others.",
        )
        self.seconds = Histogram(
            "billing_feed_seconds",
            "Seconds until a receiver has accepted a notification.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
            registry=registry,
        )
        self.failing = Gauge(
            "billing_feed_failing_seconds",
            "Seconds for which a receiver has accepted nothing and failed; 0 if it does not fail.",
            ("destination",),
            registry=registry,
        )
        self.disabled = Gauge(
            "billing_feed_disabled",
            "1 if a receiver is disabled: it answered 410, or failed for days.",
            ("destination",),
            registry=registry,
        )
        for destination in destinations:
            self.failing.labels(destination).set(0)
            self.disabled.labels(destination).set(0)
