"""`billing dispatcher`: wires the dispatchers of e-mails and of calls to Stripe, and runs them until told to stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog
import typer
import uvloop

from ops.commands.terminal import EXIT_INVALID_SETTINGS, settings_and_config
from ops.exports import check_exports, exporter
from ops.runtime.health import OpsAddressTaken, OpsServer
from ops.runtime.watchdog import Watchdog
from ops.stripe_calls import call_dispatcher, stripe_parts
from schemas.settings import Config, InvalidSettings, Settings
from sinks.email.addresses import UnusableAddress
from sinks.email.delivery import Courier
from sinks.email.dispatcher import Dispatcher
from sinks.email.message import Composer
from sinks.email.metrics import Metrics
from sinks.email.outbox import CHANNEL, Outbox
from sinks.email.smtp import InvalidSmtpUrl, SmtpLink, SmtpServer, parse_smtp_url
from sinks.outbox.wakeup import listen
from sinks.postgres.gauges import StoreGauges

log = structlog.get_logger(__name__)

SENDERS = 4


def dispatcher() -> None:
    """Send the queued e-mails, and make the queued calls to Stripe where BILLING_STRIPE_API_KEY is set.

    Example: billing dispatcher

    Several may run at once. SIGTERM lets what is in hand end and exits 0. Exits 2 if a setting is unusable.
    """
    settings, config = settings_and_config()
    try:
        server, composer = mail_parts(settings, config)
        stripe_parts(settings)
        check_exports(settings)
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
        return server, Composer(config.mail, link_secret=secret, public_url=settings.public_url or None)
    except UnusableAddress as error:
        raise InvalidSettings(f"BILLING_CONFIG: mail.sender, mail.operator or mail.reply_to: {error}") from None


async def run(settings: Settings, config: Config, server: SmtpServer, composer: Composer) -> None:
    """Until SIGTERM or SIGINT. Raises InvalidSettings, OpsAddressTaken."""
    metrics = Metrics()
    claimer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    async with (
        _mail_dispatcher(settings, config, server, composer, metrics, claimer) as mails,
        call_dispatcher(settings, metrics.registry, claimer=claimer, clock=_utc_now) as calls,
        exporter(settings, metrics.registry, claimer=claimer, clock=_utc_now) as exports,
    ):
        stuck = {"senders": mails.stuck, "callers": calls.stuck, "exporter": exports.stuck}
        watchdog = Watchdog(stuck, limit_s=settings.stuck_after_s)
        health = OpsServer(
            settings.ops_host,
            settings.ops_port,
            {
                "outbox": mails.outbox_trouble,
                "mail_server": mails.mail_server_trouble,
                "stripe_outbox": calls.outbox_trouble,
                "stripe": calls.stripe_trouble,
                "export_orders": exports.trouble,
            },
            alive={**stuck, "progress": watchdog.trouble},
            notes={"stripe_calls": calls.note},
            registry=metrics.registry,
        )
        loop = asyncio.get_running_loop()

        def stop() -> None:
            mails.stop()
            calls.stop()
            exports.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        gauges = asyncio.create_task(StoreGauges(metrics.registry).run(settings.database_url))
        try:
            await health.start()
            watchdog.start()
            log.info(
                "dispatcher started",
                action="dispatcher.started",
                claimer=claimer,
                smtp=f"{server.host}:{server.port}",
                tls=server.tls,
                test_mode_mail=config.mail.send_test_mode,
                stripe_calls=calls.note(),
            )
            running = [asyncio.create_task(work.run()) for work in (mails, calls, exports)]
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            stop()  # whichever ended, the process does
            for end in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(end, BaseException):
                    raise end
        finally:
            await watchdog.stop()
            gauges.cancel()
            await asyncio.gather(gauges, return_exceptions=True)
            await health.stop()
    log.info("dispatcher stopped", action="dispatcher.stopped")


@asynccontextmanager
async def _mail_dispatcher(
    settings: Settings, config: Config, server: SmtpServer, composer: Composer, metrics: Metrics, claimer: str
) -> AsyncIterator[Dispatcher]:
    outbox = await Outbox.connect(settings.database_url, claimer=claimer, pool_size=SENDERS + 1)
    couriers = [Courier(composer, SmtpLink(server), config.mail, clock=_utc_now) for _ in range(SENDERS)]
    dispatch = Dispatcher(outbox, couriers, metrics, clock=_utc_now)
    listener = asyncio.create_task(listen(settings.database_url, CHANNEL, dispatch.wake))
    try:
        yield dispatch
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        await outbox.close()


def _utc_now() -> datetime:
    return datetime.now(UTC)
