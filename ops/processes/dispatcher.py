"""The main function of `billing dispatcher`: delivers mails, Stripe calls, exports and notifications until stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from prometheus_client import CollectorRegistry

from eventlog.append import EventAppender
from ops.processes.skeleton import Process
from ops.processes.topics import log_differences_later
from schemas.database_url import is_local
from schemas.feed_secrets import feed_secrets
from schemas.feed_settings import TOPIC
from schemas.plugin_registry import installed
from schemas.rate import RateLimit
from schemas.settings import Config, InvalidSettings, Settings
from schemas.timing import utc_now
from sinks.email.addresses import UnusableAddress
from sinks.email.delivery import MailSender
from sinks.email.dispatcher import Dispatcher
from sinks.email.message import Composer
from sinks.email.metrics import MailMetrics
from sinks.email.outbox import MailOutbox
from sinks.email.smtp import InvalidSmtpUrl, SmtpLink, SmtpServer, helo_name, parse_smtp_url
from sinks.email.template_check import UnusableTemplates, check_templates
from sinks.email.truth import MailTruth
from sinks.exports.exporter import Exporter
from sinks.exports.orders import ExportOrders
from sinks.exports.storage import Storage
from sinks.feed.dispatcher import LANES as FEED_LANES
from sinks.feed.dispatcher import FeedDispatcher
from sinks.feed.metrics import FeedMetrics
from sinks.feed.notifications import Notifications
from sinks.feed.poster import HandlerPoster, Poster, Receiver, TopicPoster, WebhookPoster
from sinks.outbox.claims import new_claimer
from sinks.outbox.loop import OutboxLoop
from sinks.outbox.wakeup import listen
from sinks.payloads.archive import PayloadArchive
from sinks.postgres.gauges import StoreGauges
from sinks.postgres.outboxes import EMAILS, EXPORTS, NOTIFICATIONS, STRIPE_CALLS, Outbox
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import ApiKey, parse_base, parse_key
from sinks.stripe_calls.caller import Caller
from sinks.stripe_calls.calls import Calls
from sinks.stripe_calls.dispatcher import LANES, CallDispatcher
from sinks.stripe_calls.metrics import CallMetrics

L = TypeVar("L", bound=OutboxLoop[Any])

log = structlog.get_logger(__name__)

SENDERS = 4


def mail_parts(settings: Settings, config: Config) -> tuple[SmtpServer, Composer]:
    """Return the mail server and the composer of mails. Raises InvalidSettings."""
    server = mail_server(settings)
    check_portal_links(settings, config)
    check_public_url(settings, config)
    secret = next(iter(settings.link_secrets), None)
    try:
        check_templates(config.mail)
        return server, Composer(config.mail, link_secret=secret, public_url=settings.public_url or None)
    except UnusableAddress as error:
        raise InvalidSettings(f"BILLING_CONFIG: mail.sender, mail.operator or mail.reply_to: {error}") from None
    except UnusableTemplates as error:
        raise InvalidSettings(f"mail.templates: {error}") from None


def mail_server(settings: Settings) -> SmtpServer:
    """Return the mail server. Raises InvalidSettings."""
    try:
        return parse_smtp_url(settings.smtp_url.get_secret_value(), allow_plaintext=settings.smtp_allow_plaintext)
    except InvalidSmtpUrl as error:
        raise InvalidSettings(f"BILLING_SMTP_URL: {error}") from None


def check_portal_links(settings: Settings, config: Config) -> None:
    """Raise InvalidSettings if links to customer portals cannot be signed."""
    if config.mail.customer_portal and settings.link_secret is None:
        raise InvalidSettings("mail.customer_portal: needs BILLING_LINK_SECRET for dispatcher and gateway")


def check_public_url(settings: Settings, config: Config) -> None:
    """Raise InvalidSettings if mails of live mode would have links to this machine."""
    if config.mode.livemode and settings.public_url and is_local(urlsplit(settings.public_url).hostname or ""):
        raise InvalidSettings("BILLING_PUBLIC_URL: customers cannot open links to this machine")


async def run(settings: Settings, config: Config, server: SmtpServer, composer: Composer) -> None:
    """Run until SIGTERM or SIGINT. Raises InvalidSettings, AddressTaken."""
    metrics = MailMetrics()
    claimer = new_claimer()
    async with (
        mail_dispatcher(settings, config, server, composer, metrics, claimer) as mails,
        call_dispatcher(settings, config, metrics.registry, claimer=claimer, clock=utc_now) as calls,
        exporter(settings, metrics.registry, claimer=claimer, clock=utc_now) as exports,
        feed_dispatcher(settings, config, metrics.registry, claimer=claimer, clock=utc_now) as feed,
    ):
        loops: tuple[OutboxLoop[Any], ...] = (mails, calls, exports, feed)

        def stop() -> None:
            for loop in loops:
                loop.stop()

        async with Process("dispatcher", settings) as process:
            stuck = {loop.lanes_check: loop.stuck for loop in loops}
            await process.begin(
                {name: check for loop in loops for name, check in _checks(loop).items()},
                stuck=stuck,
                alive=stuck,
                notes={"stripe_calls": calls.note, "feed": feed.note},
                registry=metrics.registry,
                on_signal=stop,
                mode=config.mode,
            )
            gauges = asyncio.create_task(StoreGauges(metrics.registry).run(settings.database_url))
            process.on_stop(partial(_cancel, gauges))
            process.watch()
            log_differences_later(settings, config)
            log.info(
                "dispatcher started",
                action="dispatcher.started",
                claimer=claimer,
                smtp=f"{server.host}:{server.port}",
                tls=server.tls,
                test_mode_mail=config.mail.send_test_mode,
                stripe_calls=calls.note(),
                feed=feed.note(),
            )
            running = [asyncio.create_task(work.run()) for work in loops]
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            stop()  # if one of the loops ends, stop all
            for end in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(end, BaseException):
                    raise end


def _checks(loop: OutboxLoop[Any]) -> dict[str, Callable[[], str | None]]:
    """Return the checks of readiness of one outbox."""
    found = {loop.store_check: loop.outbox_trouble}
    return found if loop.service_check is None else {**found, loop.service_check: loop.trouble}


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _woken(settings: Settings, outbox: Outbox, loop: L) -> AsyncIterator[L]:
    """Yield the loop, which Postgres wakes inside the block when rows of the outbox are queued."""
    listener = asyncio.create_task(listen(settings.database_url, outbox.channel, loop.wake))
    try:
        yield loop
    finally:
        await _cancel(listener)


@asynccontextmanager
async def mail_dispatcher(
    settings: Settings, config: Config, server: SmtpServer, composer: Composer, metrics: MailMetrics, claimer: str
) -> AsyncIterator[Dispatcher]:
    outbox = await MailOutbox.connect(settings.database_url, claimer=claimer, pool_size=SENDERS + 1, keeps_plans=True)
    name = helo_name(settings.smtp_helo_name, composer.sender.domain)
    senders = [MailSender(composer, SmtpLink(server, helo_name=name)) for _ in range(SENDERS)]
    dispatch = Dispatcher(outbox, senders, metrics, clock=utc_now, truth=MailTruth(config.mail))
    try:
        async with _woken(settings, EMAILS, dispatch):
            yield dispatch
    finally:
        await outbox.close()


@asynccontextmanager
async def exporter(
    settings: Settings, registry: CollectorRegistry, *, claimer: str, clock: Callable[[], datetime]
) -> AsyncIterator[Exporter]:
    """Yield an exporter to run inside the block. Raises InvalidSettings."""
    storage, payloads = Storage(settings.exports_place), PayloadArchive(settings.payloads_url)
    orders = await ExportOrders.connect(settings.database_url, claimer=claimer, pool_size=2, keeps_plans=True)
    running = Exporter(orders, storage, payloads, clock=clock, registry=registry)
    try:
        async with _woken(settings, EXPORTS, running):
            yield running
    finally:
        await orders.close()


def stripe_parts(settings: Settings, config: Config) -> tuple[ApiKey, str] | None:
    """Return the API key and Stripe's base URL, None without a key. Raises InvalidSettings."""
    if settings.stripe_api_key is None:
        return None
    return parse_key(settings.stripe_api_key, mode=config.mode), parse_base(settings.stripe_api_base)


@asynccontextmanager
async def call_dispatcher(
    settings: Settings, config: Config, registry: CollectorRegistry, *, claimer: str, clock: Callable[[], datetime]
) -> AsyncIterator[CallDispatcher]:
    """Yield a dispatcher of calls to Stripe to run inside the block. Raises InvalidSettings."""
    parts = stripe_parts(settings, config)
    pool_size = LANES + 1 if parts else 1
    calls = await Calls.connect(settings.database_url, claimer=claimer, pool_size=pool_size, keeps_plans=True)
    try:
        if parts is None:
            yield CallDispatcher(calls, None, CallMetrics(registry), clock=clock, lanes=1)
            return
        api = StripeApi(*parts)
        event_log = EventAppender(settings.kafka, settings.events_topic, client_id="billing-stripe-calls")
        caller = Caller(api, RateLimit(settings.stripe_calls_per_second), event_log)
        running = CallDispatcher(calls, caller, CallMetrics(registry), clock=clock)
        try:
            async with _woken(settings, STRIPE_CALLS, running):
                yield running
        finally:
            await api.close()
            await asyncio.to_thread(event_log.close)
    finally:
        await calls.close()


def feed_receivers(config: Config) -> list[Receiver]:
    """Return the destinations of the feed with their secrets. Raises InvalidSettings."""
    return [
        Receiver(name, destination, feed_secrets(name, destination))
        for name, destination in config.feed.destinations.items()
    ]


@asynccontextmanager
async def feed_dispatcher(
    settings: Settings, config: Config, registry: CollectorRegistry, *, claimer: str, clock: Callable[[], datetime]
) -> AsyncIterator[FeedDispatcher]:
    """Yield a dispatcher of notifications to run inside the block. Raises InvalidSettings."""
    posters: dict[str, Poster] = {receiver.name: WebhookPoster(receiver) for receiver in feed_receivers(config)}
    posters |= {one.destination: HandlerPoster(one) for plugin in installed() for one in plugin.handlers}
    if config.feed.topic:
        changes = EventAppender(settings.kafka, settings.changes_topic, client_id="billing-feed")
        posters[TOPIC] = TopicPoster(changes)
    lanes = FEED_LANES if posters else 1
    notifications = await Notifications.connect(
        settings.database_url, claimer=claimer, pool_size=lanes + 1, keeps_plans=True
    )
    running = FeedDispatcher(
        notifications,
        posters,
        FeedMetrics(registry, posters),
        clock=clock,
        disable_after=timedelta(days=config.feed.disable_after_days),
        lanes=lanes,
    )
    try:
        async with _woken(settings, NOTIFICATIONS, running):
            yield running
    finally:
        await notifications.close()
