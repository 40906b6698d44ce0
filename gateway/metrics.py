"""What the gateway counts. Labels hold configured names and our own words only, never what a caller sent.

With `PROMETHEUS_MULTIPROC_DIR` set (several gateway processes behind one port) each process writes its share there and
any of them answers for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class GatewayMetrics:
    """One gateway's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "billing_gateway_requests",
            "Webhook requests by endpoint and outcome (accepted, or why not).",
            ("endpoint", "outcome"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "billing_gateway_request_seconds",
            "From the request's head to the answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.produce_seconds = Histogram(
            "billing_gateway_produce_seconds",
            "From handing a record to the producer to the broker's confirmation.",
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
            "Bytes of request bodies held at this moment.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.producer_failures = Counter(
            "billing_gateway_producer_failures",
            "Fatal errors after which the Kafka producer was replaced.",
            registry=self.registry,
        )
        self.malformed_http = Counter(
            "billing_gateway_malformed_http",
            "Requests that were no HTTP or broke its limits; they never reached an endpoint.",
            registry=self.registry,
        )

    def render(self) -> bytes:
        """Prometheus' text format, of all gateway processes where there are several."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # prometheus_client leaves it unannotated
        return generate_latest(shared)

    def expect(self, endpoints: Iterable[str]) -> None:
        """Shows what alarms ask for from the start: a series that begins with its first 1 has increased by nothing."""
        for endpoint in endpoints:
            for outcome in ("accepted", "signature_mismatch", "not_stored", "overloaded", "error"):
                self.requests.labels(endpoint, outcome)
