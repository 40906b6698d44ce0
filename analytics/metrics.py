"""What the analytics consumer counts. Labels hold our own words only."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

EVENTS = Counter(
    "billing_analytics_events_total", "Records by what came of them: facts, passed, unreadable", ["outcome"]
)
ROWS = Counter("billing_analytics_rows_total", "Rows of figures that were written or deleted")
RETRIES = Counter("billing_analytics_retries_total", "Batches tried again after transient trouble", ["error"])
BATCH_SIZE = Histogram(
    "billing_analytics_batch_events", "Records per batch", buckets=(1, 5, 20, 50, 100, 250, 500, 1000)
)
BATCH_SECONDS = Histogram("billing_analytics_batch_seconds", "Seconds from a batch taken to its figures committed")
