"""Prometheus metrics of the dispatcher of Stripe calls. Label values are fixed purposes and outcomes only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, Histogram

from schemas.effects import PURPOSES
from sinks.outbox.metrics import LoopMetrics
from sinks.postgres.outboxes import STRIPE_CALLS


class CallMetrics(LoopMetrics):
    """The metrics of one dispatcher."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(
            STRIPE_CALLS,
            registry,
            noun="calls",
            kinds=PURPOSES,
            paused_help="1 while no call is made: Stripe is unreachable, refuses the key, or asks for a pause.",
        )
        self.call_seconds = Histogram(
            "billing_stripe_call_seconds",
            "Seconds to complete a successful call, including the wait for the rate limit.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.enabled = Gauge(
            "billing_stripe_calls_enabled",
            "1 if BILLING_STRIPE_API_KEY is set; 0 if not, then calls stay queued.",
            registry=registry,
        )
