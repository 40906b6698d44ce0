"""Prometheus metrics of the dispatcher of Stripe calls. Label values are fixed purposes and outcomes only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.effects import PURPOSES


class CallMetrics:
    """The metrics of one dispatcher."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.settled = Counter(
            "billing_stripe_calls_settled",
            "Tries by purpose and outcome: done, retried, failed, given_back.",
            ("purpose", "outcome"),
            registry=registry,
        )
        # Prometheus sees no increase when a series first appears with value 1, so each series starts at 0.
        for purpose in PURPOSES:
            self.settled.labels(purpose, "failed")
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
        self.open = Gauge("billing_stripe_calls_open", "Calls queued or being made.", registry=registry)
        self.oldest_due_seconds = Gauge(
            "billing_stripe_calls_oldest_due_seconds",
            "Seconds since the oldest due call became due; 0 if no call is due.",
            registry=registry,
        )
        self.paused = Gauge(
            "billing_stripe_calls_paused",
            "1 while no call is made: Stripe is unreachable, refuses the key, or asks for a pause.",
            registry=registry,
        )
