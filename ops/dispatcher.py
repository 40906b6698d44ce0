"""`billing dispatcher`: wires the e-mail dispatcher and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from datetime import UTC, datetime

import structlog
import typer
import uvloop

from ops.entry import EXIT_INVALID_SETTINGS, settings_and_config
from ops.health import OpsAddressTaken, OpsServer
from schemas.settings import Config, InvalidSettings, Settings
from sinks.email.addresses import UnusableAddress
from sinks.email.delivery import Courier
from sinks.email.dispatcher import Dispatcher
from sinks.email.message import Composer
from sinks.email.metrics import Metrics
from sinks.email.outbox import Outbox
from sinks.email.smtp import InvalidSmtpUrl, SmtpLink, SmtpServer, parse_smtp_url
from sinks.email.wakeup import listen

log = structlog.get_logger(__name__)

SENDERS = 4


def dispatcher() -> None:
    """Send the queued e-mails.

    Example: billing dispatcher

    Several may run at once. SIGTERM lets the mails in hand end and exits 0. Exits 2 if a setting is unusable.
    """
    settings, config = settings_and_config()
    try:
        server, composer = mail_parts(settings, config)
    except InvalidSettings as error:
        typer.echo(f"billing dispatcher: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run(settings, config, server, composer))
        except InvalidSettings as error:
            typer.echo(f"billing dispatcher: {error}", err=True)
            raise typer.Exit(EXIT_INVALID_SETTINGS) from None
        except OpsAddressTaken as error:
            typer.echo(f"billing dispatcher: {error}", err=True)
            raise typer.Exit(1) from None


def mail_parts(settings: Settings, config: Config) -> tuple[SmtpServer, Composer]:
    """Where mail goes and who makes it. Raises InvalidSettings."""
    try:
        server = parse_smtp_url(settings.smtp_url.get_secret_value())
    except InvalidSmtpUrl as error:
        raise InvalidSettings(f"BILLING_SMTP_URL: {error}") from None
    secret = settings.link_secret.get_secret_value().encode() if settings.link_secret is not None else None
    try:
        return server, Composer(config.mail, link_secret=secret)
    except UnusableAddress as error:
        raise InvalidSettings(f"BILLING_CONFIG: mail.sender, mail.operator or mail.reply_to: {error}") from None


async def run(settings: Settings, config: Config, server: SmtpServer, composer: Composer) -> None:
    """Until SIGTERM or SIGINT. Raises InvalidSettings, OpsAddressTaken."""
    metrics = Metrics()
    claimer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    outbox = await Outbox.connect(settings.database_url, claimer=claimer, pool_size=SENDERS + 1)
    couriers = [Courier(composer, SmtpLink(server), config.mail, clock=_utc_now) for _ in range(SENDERS)]
    dispatch = Dispatcher(outbox, couriers, metrics, clock=_utc_now)
    health = OpsServer(
        settings.ops_host,
        settings.ops_port,
        {"outbox": dispatch.outbox_trouble, "mail_server": dispatch.mail_server_trouble},
        alive={"senders": dispatch.stuck},
        registry=metrics.registry,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, dispatch.stop)
    listener = asyncio.create_task(listen(settings.database_url, dispatch.wake))
    try:
        await health.start()
        log.info(
            "dispatcher started",
            action="dispatcher.started",
            claimer=claimer,
            smtp=f"{server.host}:{server.port}",
            tls=server.tls,
            test_mode_mail=config.mail.send_test_mode,
        )
        await dispatch.run()
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        await health.stop()
        await outbox.close()
    log.info("dispatcher stopped", action="dispatcher.stopped")


def _utc_now() -> datetime:
    return datetime.now(UTC)
