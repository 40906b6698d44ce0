"""The gateway's metrics. Labels contain only configured names and fixed values, never anything a caller sent.

With `PROMETHEUS_MULTIPROC_DIR` set (several gateway processes on one port) each process writes its values there, and
any of them reports the values of all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ALERTED = (
    "accepted", "signature_mismatch", "mode_mismatch", "not_stored", "overloaded", "error", "record_too_large",
    "body_too_large",
)  # fmt: skip
"""Outcomes that docs/alerts.yml names."""


class GatewayMetrics:
    """The metrics of one gateway, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "billing_gateway_requests",
            "Webhook requests by endpoint and outcome (accepted, or the reason of the refusal).",
            ("endpoint", "outcome"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "billing_gateway_request_seconds",
            "Seconds from the request's head to the response.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.produce_seconds = Histogram(
            "billing_gateway_produce_seconds",
            "Seconds from handing a record to the producer to the broker's confirmation.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "billing_gateway_in_flight_records",
            "Records handed to the producer and not yet settled.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.body_bytes = Gauge(
            "billing_gateway_body_bytes",
            "Bytes of request bodies in memory.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.producer_failures = Counter(
            "billing_gateway_producer_failures",
            "Fatal errors after which the Kafka producer was replaced.",
            registry=self.registry,
        )
        self.shadow = Gauge(
            "billing_gateway_shadow",
            "1 in shadow mode: events are stored, and nothing leaves the system; 0 otherwise, or if not known.",
            registry=self.registry,
            multiprocess_mode="max",
        )
        self.malformed_http = Counter(
            "billing_gateway_malformed_http",
            "Requests that were not valid HTTP or exceeded its limits; they never reached an endpoint.",
            registry=self.registry,
        )

    def render(self) -> bytes:
        """Returns the metrics in Prometheus' text format, summed over all gateway processes."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # prometheus_client leaves it unannotated
        return generate_latest(shared)

    def expect(self, endpoints: Iterable[str]) -> None:
        """Creates the series that alerts use with value 0: `increase()` does not count the first 1 of a new series."""
        for endpoint in endpoints:
            for outcome in _ALERTED:
                self.requests.labels(endpoint, outcome)
