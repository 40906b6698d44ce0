"""Prometheus metrics of the mail dispatcher. Label values are template names and fixed outcomes only."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

from schemas.mail import MAILS
from sinks.outbox.metrics import LoopMetrics
from sinks.postgres.outboxes import EMAILS


class MailMetrics(LoopMetrics):
    """The metrics of one dispatcher, in their own registry."""

    def __init__(self) -> None:
        super().__init__(
            EMAILS,
            CollectorRegistry(),
            noun="mails",
            kinds=frozenset(MAILS),
            paused="mail_server_down",
            paused_help="1 while sending is paused because the mail server is down or refuses all mails.",
        )
        self.send_seconds = Histogram(
            "billing_email_send_seconds",
            "Seconds to deliver a sent mail: compose, check the connection, SMTP commands up to the server's 250.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=self.registry,
        )
