"""The Prometheus metrics that every outbox has. Label values are fixed kinds and outcomes only."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from sinks.postgres.outboxes import Outbox


class LoopMetrics:
    """The metrics of one loop. Their names begin with `outbox.metrics`."""

    def __init__(
        self,
        outbox: Outbox,
        registry: CollectorRegistry,
        *,
        noun: str,
        kinds: Iterable[str] = (),
        paused: str = "paused",
        paused_help: str = "1 while deliveries pause.",
    ) -> None:
        """`noun` names the rows in help texts; `paused` names the gauge of pauses; `kinds` are label values."""
        self.registry = registry
        prefix = outbox.metrics
        labels = (outbox.kind, "outcome") if outbox.kind is not None else ("outcome",)
        self._has_kind = outbox.kind is not None
        self._settled = Counter(
            f"{prefix}_settled", f"Tries of {noun} by outcome (docs/metrics.md).", labels, registry=registry
        )
        # Prometheus sees no increase when a series first appears with value 1, so each series starts at 0.
        for kind in kinds if self._has_kind else ("",):
            self._labelled(kind, "failed")
        self.open = Gauge(f"{prefix}_open", f"Open {noun}: queued or claimed.", registry=registry)
        self.oldest_due_seconds = Gauge(
            f"{prefix}_oldest_due_seconds",
            f"Seconds since the oldest of the due {noun} became due; 0 if none is due.",
            registry=registry,
        )
        self.last_loop = Gauge(
            f"{prefix}_last_loop_timestamp_seconds",
            f"Unix time of the last successful check for due {noun}.",
            registry=registry,
        )
        self.paused = Gauge(f"{prefix}_{paused}", paused_help, registry=registry)
        self.refused = Gauge(
            f"{prefix}_refused",
            f"1 while {noun} pause because different ones were refused in a row with the same answer.",
            registry=registry,
        )

    def settled(self, kind: str | None, outcome: str) -> None:
        """Count one try."""
        self._labelled(kind or "", outcome).inc()

    def _labelled(self, kind: str, outcome: str) -> Counter:
        return self._settled.labels(kind, outcome) if self._has_kind else self._settled.labels(outcome)
