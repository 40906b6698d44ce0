"""`billing gateway`: the HTTP process that verifies events and appends them to the log."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.commands.terminal import settings_and_config
from ops.processes.gateway import run


def gateway(
    child_fd: Annotated[int | None, typer.Option("--child-fd", hidden=True)] = None,
) -> None:
    """Receive Stripe's webhooks, verify their signatures, and append the events to the log.

    Example: BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 BILLING_CONFIG=billing.toml billing gateway

    On SIGTERM it finishes the requests in flight, flushes the producer and exits 0. Exits 1 if the port is in use or a
    child process died, 2 if a setting is missing or invalid, 70 if it is stuck.
    """
    settings, config = settings_and_config("gateway", warns=child_fd is None)
    raise typer.Exit(run(settings, config, child_fd=child_fd))
