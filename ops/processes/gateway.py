"""`billing gateway`: the HTTP door as a process, or as several behind one port.

With BILLING_GATEWAY_PROCESSES above 1 this process only binds the port once for each child (SO_REUSEPORT: the kernel
spreads connections) and watches them; a child that dies ends them all, so that whoever supervises us sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from gateway.app import create_app, create_runner
from gateway.endpoints import WebhookEndpoint
from gateway.mail_links import Links
from gateway.metrics import GatewayMetrics
from gateway.publisher import Publisher
from ops.runtime.watchdog import Watchdog
from schemas.settings import Settings
from sinks.email.unsubscribe import Unsubscriptions
from sinks.exports.orders import ExportOrders
from sinks.exports.reader import ExportReader
from sinks.exports.storage import Storage

log = structlog.get_logger(__name__)

BACKLOG = 1024
CHILDREN_END_WITHIN_S = 30.0


class PortTaken(Exception):
    """The gateway's address cannot be bound; the message is one line."""


def _bind(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets bound to one address, not listening yet. Raises PortTaken."""
    found: list[socket.socket] = []
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if count > 1 and port:
            # With SO_REUSEPORT a second gateway would share the port unnoticed, so ask once without it.
            with socket.socket(family, kind, proto) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(address)
        for _ in range(count):
            sock = socket.socket(family, kind, proto)
            found.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            address = sock.getsockname()  # port 0: the first socket's choice is the port of all
        if count == 1:
            found[0].listen(BACKLOG)  # SO_REUSEADDR lets two bind, but only one listen
    except OSError as error:
        for sock in found:
            sock.close()
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return found


async def _serve(
    settings: Settings, found: Mapping[str, WebhookEndpoint], sock: socket.socket, *, is_child: bool
) -> None:
    async with links(settings) as served:
        await _serve_with(served, settings, found, sock, is_child=is_child)


async def _serve_with(
    served: Links | None,
    settings: Settings,
    found: Mapping[str, WebhookEndpoint],
    sock: socket.socket,
    *,
    is_child: bool,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if is_child:
        loop.add_reader(sys.stdin.fileno(), stop.set)  # readable only at its end: the parent is gone
    metrics = GatewayMetrics()
    publisher = Publisher(settings.kafka_bootstrap, settings.events_topic, metrics)
    watchdog = Watchdog({"producer": publisher.stuck_reason}, limit_s=settings.stuck_after_s)
    runner = create_runner(create_app(found, publisher, metrics, links=served))
    await runner.setup()
    try:
        server = runner.server
        if server is None:
            raise RuntimeError("aiohttp's runner has no server after its setup")
        listener = await loop.create_server(server, sock=sock, backlog=BACKLOG)
        host, port = sock.getsockname()[:2]
        log.info(
            "gateway listening",
            action="gateway.listening",
            host=host,
            port=port,
            endpoints=sorted(found),
            topic=settings.events_topic,
            pid=os.getpid(),
        )
        watchdog.start()
        await stop.wait()
        if is_child:
            loop.remove_reader(sys.stdin.fileno())
        log.info("gateway stopping", action="gateway.stopping")
        listener.close()
    finally:
        await watchdog.stop()
        await runner.cleanup()
    log.info("gateway stopped", action="gateway.stopped")


async def _watch_children(listeners: list[socket.socket]) -> int:
    """Start a child per socket and wait; returns the exit code: 0 if we were told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="billing-gateway-") as shared:
        children = [await _start_child(sock, {"PROMETHEUS_MULTIPROC_DIR": shared}) for sock in listeners]
        for sock in listeners:
            sock.close()
        ends = [asyncio.create_task(child.wait()) for child in children]
        told = asyncio.create_task(stop.wait())
        await asyncio.wait([told, *ends], return_when=asyncio.FIRST_COMPLETED)
        was_told = told.done()
        told.cancel()
        if not was_told:
            log.error("a gateway process died, stopping the others", action="gateway.child_died")
        for child in children:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                child.terminate()
        _, late = await asyncio.wait(ends, timeout=CHILDREN_END_WITHIN_S)
        for child, end in zip(children, ends, strict=True):
            if end in late:
                child.kill()
        codes = await asyncio.gather(*ends)
    return 0 if was_told and not any(codes) else 1


async def _start_child(sock: socket.socket, extra: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.cli",
        "gateway",
        f"--child-fd={sock.fileno()}",
        pass_fds=(sock.fileno(),),
        stdin=asyncio.subprocess.PIPE,  # held open by us; its end tells the child that we are gone
        env={**os.environ, **extra},
    )


_GATEWAY_CONNECTIONS = 4


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
    orders = await ExportOrders.connect(
        settings.database_url, claimer=claimer, pool_size=_GATEWAY_CONNECTIONS, application="billing-links"
    )
    try:
        yield Links(secret, ExportReader(orders, storage), Unsubscriptions(orders.pool, secret))
    finally:
        await orders.close()
