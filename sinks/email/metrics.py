"""What the dispatcher counts. Labels hold template names and our own words only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sinks.email.rendering import NAMES


class MailMetrics:
    """One dispatcher's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.settled = Counter(
            "billing_emails_settled",
            "Tries by template and outcome: sent, retried, failed, withheld, no_recipient, given_back.",
            ("template", "outcome"),
            registry=self.registry,
        )
        for template in NAMES:  # an increase from nothing to one is none to Prometheus: the first failure counts too
            self.settled.labels(template, "failed")
        self.send_seconds = Histogram(
            "billing_email_send_seconds",
            "From the first SMTP command of a mail to the server's 250.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=self.registry,
        )
        self.open = Gauge("billing_emails_open", "Mails queued or being sent.", registry=self.registry)
        self.oldest_due_seconds = Gauge(
            "billing_emails_oldest_due_seconds",
            "How long the longest-waiting due mail has been due; 0 when none is.",
            registry=self.registry,
        )
        self.last_loop = Gauge(
            "billing_emails_last_loop_timestamp_seconds",
            "Unix time of the last look at the outbox that succeeded.",
            registry=self.registry,
        )
        self.server_down = Gauge(
            "billing_emails_mail_server_down", "1 while sending is paused for the mail server.", registry=self.registry
        )
