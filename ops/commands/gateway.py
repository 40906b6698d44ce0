"""`billing gateway`: the HTTP process that verifies events and appends them to the log."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated

import typer
import uvloop

from gateway.endpoints import webhook_endpoints
from ops.processes.gateway import PortTaken, _bind, _serve, _watch_children
from ops.runtime.logs import configure_logging
from ops.runtime.start import log_start_warnings
from schemas.settings import InvalidSettings, load_config, load_settings
from sinks.exports.storage import check_exports


def gateway(
    child_fd: Annotated[int | None, typer.Option("--child-fd", hidden=True)] = None,
) -> None:
    """Receive Stripe's webhooks, verify their signatures, and append the events to the log.

    Example: BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 BILLING_CONFIG=billing.toml billing gateway

    On SIGTERM it finishes the requests in flight, flushes the producer and exits 0. Exits 1 if the port is in use or a
    child process died, 2 if a setting is missing or invalid, 70 if it is stuck.
    """
    try:
        settings = load_settings()
        found = webhook_endpoints(load_config(settings.config_path))
        check_exports(settings)
    except InvalidSettings as error:
        typer.echo(f"billing gateway: {error}", err=True)
        raise typer.Exit(2) from None
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    if child_fd is None:
        log_start_warnings(settings)
    else:
        uvloop.run(_serve(settings, found, socket.socket(fileno=child_fd), is_child=True))
        return
    try:
        listeners = _bind(settings.gateway_host, settings.gateway_port, settings.gateway_processes)
    except PortTaken as error:
        typer.echo(f"billing gateway: {error}", err=True)
        raise typer.Exit(1) from None
    if len(listeners) == 1:
        uvloop.run(_serve(settings, found, listeners[0], is_child=False))
    else:
        raise typer.Exit(asyncio.run(_watch_children(listeners)))
