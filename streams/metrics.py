"""The worker's Prometheus metrics. Labels have few values: streams and outcomes, never ids."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("billing_worker_events_total", "Processed events by stream and outcome", ["stream", "outcome"])
SEEN = Counter("billing_worker_seen_total", "Events dropped because the table contains them as settled")
RETRIES = Counter("billing_worker_retries_total", "Retries of batches after a transient error", ["error"])
BATCH_SIZE = Histogram("billing_worker_batch_events", "Events per batch", buckets=(1, 5, 20, 50, 100, 250, 500, 1000))
BATCH_SECONDS = Histogram("billing_worker_batch_seconds", "Seconds from taking a batch to marking its settled events")
LATENCY = Histogram(
    "billing_worker_event_latency_seconds",
    "Seconds from receipt by the gateway to commit in Postgres",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
ACCOUNTS_ASIDE = Gauge(
    "billing_worker_accounts_aside", "Connected accounts whose events die, and do not count for the brake"
)
KNOWN_IDS = Gauge("billing_worker_known_ids", "Event ids held in the table of settled events")
