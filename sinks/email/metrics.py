"""Prometheus metrics of the mail dispatcher. Label values are template names and fixed outcomes only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sinks.email.rendering import NAMES


class MailMetrics:
    """The metrics of one dispatcher, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.settled = Counter(
            "billing_emails_settled",
            "Tries by template and outcome: sent, retried, failed, withheld, no_recipient, given_back.",
            ("template", "outcome"),
            registry=self.registry,
        )
        # Prometheus sees no increase when a series first appears with value 1, so each series starts at 0.
        for template in NAMES:
            self.settled.labels(template, "failed")
        self.send_seconds = Histogram(
            "billing_email_send_seconds",
            "Seconds to deliver a sent mail: compose, check the connection, SMTP commands up to the server's 250.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=self.registry,
        )
        self.open = Gauge("billing_emails_open", "Mails queued or being sent.", registry=self.registry)
        self.oldest_due_seconds = Gauge(
            "billing_emails_oldest_due_seconds",
            "Seconds since the oldest due mail became due; 0 if no mail is due.",
            registry=self.registry,
        )
        self.last_loop = Gauge(
            "billing_emails_last_loop_timestamp_seconds",
            "Unix time of the last successful check of the outbox for due mails.",
            registry=self.registry,
        )
        self.server_down = Gauge(
            "billing_emails_mail_server_down",
            "1 while sending is paused because the mail server is down.",
            registry=self.registry,
        )
