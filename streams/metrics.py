"""The worker's figures, in Prometheus' conventions; labels have few values (streams and outcomes, never ids)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("billing_worker_events_total", "Events brought to a verdict", ["stream", "outcome"])
SEEN = Counter("billing_worker_seen_total", "Events dropped because the table knew them as settled")
RETRIES = Counter("billing_worker_retries_total", "Batches tried again after transient trouble", ["error"])
BATCH_SIZE = Histogram("billing_worker_batch_events", "Events per batch", buckets=(1, 5, 20, 50, 100, 250, 500, 1000))
BATCH_SECONDS = Histogram("billing_worker_batch_seconds", "Seconds from a batch taken to its verdicts marked")
LATENCY = Histogram(
    "billing_worker_event_latency_seconds",
    "Seconds from received by the gateway to committed in Postgres",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
KNOWN_IDS = Gauge("billing_worker_known_ids", "Event ids held in the table of settled events")
