"""Wires exports: their making, for `billing dispatcher`; the links to them, and out of the mails, for the gateway."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from prometheus_client import CollectorRegistry

from gateway.mail_links import Links
from schemas.settings import Settings
from sinks.email.stopped import Unsubscriptions
from sinks.exports.exporter import Exporter
from sinks.exports.orders import Orders
from sinks.exports.reader import ExportReader
from sinks.exports.storage import Storage
from sinks.postgres.pool import dsn

_GATEWAY_CONNECTIONS = 4


def check_exports(settings: Settings) -> None:
    """Raises InvalidSettings where they cannot be kept or found."""
    Storage(settings.exports_place)
    dsn(settings.database_url)


@asynccontextmanager
async def exporter(
    settings: Settings, registry: CollectorRegistry, *, claimer: str, clock: Callable[[], datetime]
) -> AsyncIterator[Exporter]:
    """An exporter, to be run inside the block. Raises InvalidSettings."""
    storage = Storage(settings.exports_place)
    orders = await Orders.connect(settings.database_url, claimer=claimer, application="billing-exports")
    try:
        yield Exporter(orders, storage, clock=clock, registry=registry)
    finally:
        await orders.close()


@asynccontextmanager
async def links(settings: Settings) -> AsyncIterator[Links | None]:
    """What the gateway needs to serve links; None without a secret to check them with. Raises InvalidSettings.

    Nothing connects before a link is opened, so that a database that is down is no matter for the webhooks.
    """
    if settings.link_secret is None:
        yield None
        return
    secret = settings.link_secret.get_secret_value().encode()
    storage = Storage(settings.exports_place)
    claimer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    orders = await Orders.connect(
        settings.database_url, claimer=claimer, pool_size=_GATEWAY_CONNECTIONS, application="billing-links"
    )
    try:
        yield Links(secret, ExportReader(orders, storage), Unsubscriptions(orders.pool, secret))
    finally:
        await orders.close()
