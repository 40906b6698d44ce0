"""Metrics of the analytics consumer. Labels contain only constants from the code, never data from events."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

EVENTS = Counter("billing_analytics_events_total", "Records by outcome: facts, passed, unreadable", ["outcome"])
ROWS = Counter("billing_analytics_rows_total", "Rows of figures that were written or deleted")
RETRIES = Counter("billing_analytics_retries_total", "Batches retried after a transient error", ["error"])
BATCH_SIZE = Histogram(
    "billing_analytics_batch_events", "Records per batch", buckets=(1, 5, 20, 50, 100, 250, 500, 1000)
)
BATCH_SECONDS = Histogram("billing_analytics_batch_seconds", "Seconds from taking a batch to committing its figures")
