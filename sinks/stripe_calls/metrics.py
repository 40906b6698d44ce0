"""What the dispatcher counts of calls to Stripe. Labels hold our own words only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.effects import PURPOSES


class CallMetrics:
    """One dispatcher's figures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.settled = Counter(
            "billing_stripe_calls_settled",
            "Tries by purpose and outcome: done, retried, failed, given_back.",
            ("purpose", "outcome"),
            registry=registry,
        )
        for purpose in PURPOSES:  # an increase from nothing to one is none to Prometheus: the first failure counts too
            self.settled.labels(purpose, "failed")
        self.call_seconds = Histogram(
            "billing_stripe_call_seconds",
            "A call that was done, with our own rate limit.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.enabled = Gauge(
            "billing_stripe_calls_enabled",
            "0 where no BILLING_STRIPE_API_KEY is set: calls stay queued.",
            registry=registry,
        )
        self.open = Gauge("billing_stripe_calls_open", "Calls queued or being made.", registry=registry)
        self.oldest_due_seconds = Gauge(
            "billing_stripe_calls_oldest_due_seconds",
            "How long the longest-waiting due call has been due; 0 when none is.",
            registry=registry,
        )
        self.paused = Gauge(
            "billing_stripe_calls_paused",
            "1 while no call is made: Stripe is unreachable, refuses the key, or asks for a pause.",
            registry=registry,
        )
