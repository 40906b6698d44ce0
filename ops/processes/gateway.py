"""The main functions of `billing gateway`: one HTTP process, or several that share a port.

With BILLING_GATEWAY_PROCESSES above 1 this process only binds the port once for each child (SO_REUSEPORT: the kernel
spreads connections) and watches the children. If a child dies it stops all, so that the supervisor notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import structlog
from aiohttp import web

from gateway.app import GATEWAY, create_app, create_runner, first_head_in_time
from gateway.clients import Clients, networks
from gateway.endpoints import WebhookEndpoint, webhook_endpoints
from gateway.mail_links import Links
from gateway.metrics import GatewayMetrics
from gateway.ops_pages import create_ops_app
from gateway.portal import ANSWER_WITHIN_S, Portal
from gateway.publisher import Publisher
from gateway.reload import EndpointReload
from ops.processes.skeleton import Process, run_process
from ops.processes.topics import log_differences_later
from ops.runtime.exit_codes import AddressTaken, ExitCode
from schemas.http_server import hide_internals
from schemas.settings import Config, InvalidSettings, Settings
from sinks.email.unsubscribe import Unsubscriptions
from sinks.exports.orders import ExportOrders
from sinks.exports.reader import ExportReader
from sinks.exports.storage import Storage, check_exports
from sinks.outbox.claims import new_claimer
from sinks.postgres.shadow_watch import ShadowWatch
from sinks.stripe_api.key import ApiKey, parse_base, parse_key

log = structlog.get_logger(__name__)

BACKLOG = 1024
CHILDREN_END_WITHIN_S = 30.0


def _bind(host: str, port: int, count: int) -> list[socket.socket]:
    """Return `count` sockets bound to one address; a single one listens already. Raises AddressTaken."""
    found: list[socket.socket] = []
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if count > 1 and port:
            # With SO_REUSEPORT a second gateway would share the port unnoticed, so bind once without it as a check.
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
            address = sock.getsockname()  # with port 0, all sockets get the port that the kernel chose for the first
        if count == 1:
            found[0].listen(BACKLOG)  # SO_REUSEADDR lets two processes bind, but only one listen
    except OSError as error:
        for sock in found:
            sock.close()
        raise AddressTaken(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return found


def run(settings: Settings, config: Config, *, child_fd: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code. `child_fd` is the socket that the parent bound."""

    async def main() -> ExitCode:
        found = webhook_endpoints(config)
        check_exports(settings)
        if child_fd is not None:
            return await _serve(settings, config, found, socket.socket(fileno=child_fd), is_child=True)
        log_differences_later(settings, config)
        listeners = _bind(settings.gateway_host, settings.gateway_port, settings.gateway_processes)
        if len(listeners) == 1:
            return await _serve(settings, config, found, listeners[0], is_child=False)
        return await _watch_children(listeners, settings.gateway_drain_s)

    # The parent of several processes runs on asyncio's own loop: uvloop does not pass sockets on to children.
    is_parent = child_fd is None and settings.gateway_processes > 1
    return run_process("gateway", main, on_uvloop=not is_parent)


async def _serve(
    settings: Settings, config: Config, found: Mapping[str, WebhookEndpoint], sock: socket.socket, *, is_child: bool
) -> ExitCode:
    hurry = asyncio.Event()
    async with links(settings, config) as served, Process("gateway", settings) as process:
        loop = asyncio.get_running_loop()
        metrics = GatewayMetrics()
        publisher = Publisher(settings.kafka, settings.events_topic, metrics)
        clients = Clients(networks(config.trusted_proxies, "BILLING_CONFIG: trusted_proxies"))
        shadow = ShadowWatch(settings.database_url) if settings.database_url.get_secret_value() else None
        app = create_app(
            found, publisher, metrics, links=served, clients=clients, is_traced=bool(settings.traces_url), shadow=shadow
        )
        runner = create_runner(app, keep_alive_s=settings.gateway_keep_alive_s)
        process.on_stop(runner.cleanup)
        await runner.setup()
        server = runner.server
        if server is None:
            raise RuntimeError("aiohttp's runner has no server after setup")
        await _serve_ops_pages(settings, app, process, shares_port=is_child)

        def parent_ended() -> None:
            process.stopping.set()
            hurry.set()

        def on_signal() -> None:
            if app[GATEWAY].draining.is_set():
                hurry.set()
            app[GATEWAY].draining.set()

        stuck = {"producer": publisher.stuck_reason}
        await process.begin({}, stuck=stuck, has_ops_server=False, on_signal=on_signal)
        if is_child:
            # Becomes readable only when the parent has ended.
            loop.add_reader(sys.stdin.fileno(), parent_ended)
        if shadow is not None:
            process.on_stop(await _watch(shadow))
        listener = await loop.create_server(first_head_in_time(server), sock=sock, backlog=BACKLOG)
        host, port = sock.getsockname()[:2]
        log.info(
            "gateway listening",
            action="gateway.listening",
            host=host,
            port=port,
            endpoints=sorted(found),
            topic=settings.events_topic,
            pid=os.getpid(),
            **app[GATEWAY].notes,
        )
        reload = EndpointReload(app[GATEWAY], settings.config_path, config)
        loop.add_signal_handler(signal.SIGHUP, reload.reload)
        watching = asyncio.create_task(reload.watch())
        process.watch()
        await process.stopping.wait()
        watching.cancel()
        if is_child:
            loop.remove_reader(sys.stdin.fileno())
        log.info("gateway stopping", action="gateway.stopping", pause_s=settings.gateway_drain_s)
        app[GATEWAY].draining.set()
        # Load balancers send requests here until they have seen that this process is not ready.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), settings.gateway_drain_s)
        listener.close()
    return ExitCode.DONE


async def _watch(shadow: ShadowWatch) -> Callable[[], Awaitable[object]]:
    """Read the shadow mode now and at intervals; returns what ends it. Events are accepted whatever Postgres does."""
    watching = asyncio.create_task(shadow.run())
    await asyncio.wait({asyncio.create_task(shadow.first_look.wait())}, timeout=_SHADOW_KNOWN_WITHIN_S)

    async def stop() -> None:
        watching.cancel()
        await asyncio.wait({watching})

    return stop


async def _serve_ops_pages(settings: Settings, app: web.Application, process: Process, *, shares_port: bool) -> None:
    """Serve health and metrics on the operations port; 0: none. Raises AddressTaken.

    Several processes share the port: each answers with the metrics of all, and with its own health.
    """
    if settings.ops_port == 0:
        return
    hide_internals()
    runner = web.AppRunner(create_ops_app(app), access_log=None, handle_signals=False, shutdown_timeout=2.0)
    process.on_stop(runner.cleanup)
    await runner.setup()
    site = web.TCPSite(runner, settings.ops_host, settings.ops_port, reuse_port=shares_port or None)
    try:
        await site.start()
    except OSError as error:
        place = f"{settings.ops_host}:{settings.ops_port}"
        raise AddressTaken(f"cannot listen on {place}: {error.strerror or error}") from None


async def _watch_children(listeners: list[socket.socket], drain_s: float) -> ExitCode:
    """Start one child per socket and wait. Returns DONE after a signal if every child exits 0, else NO."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with tempfile.TemporaryDirectory(prefix="billing-gateway-") as shared:
        children = [await _start_child(sock, {"PROMETHEUS_MULTIPROC_DIR": shared}) for sock in listeners]
        for sock in listeners:
            sock.close()
        loop.add_signal_handler(signal.SIGHUP, partial(_signal, children, signal.SIGHUP))
        ends = [asyncio.create_task(child.wait()) for child in children]
        signaled = asyncio.create_task(stop.wait())
        await asyncio.wait([signaled, *ends], return_when=asyncio.FIRST_COMPLETED)
        loop.remove_signal_handler(signal.SIGHUP)
        was_signaled = signaled.done()
        signaled.cancel()
        if not was_signaled:
            log.error("a gateway process died, stopping the others", action="gateway.child_died")

        terminate = partial(_signal, children, signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, terminate)  # the second signal ends the children's pause
        terminate()
        _, late = await asyncio.wait(ends, timeout=CHILDREN_END_WITHIN_S + drain_s)
        for child, end in zip(children, ends, strict=True):
            if end in late:
                child.kill()
        codes = await asyncio.gather(*ends)
    return ExitCode.DONE if was_signaled and not any(codes) else ExitCode.NO


def _signal(children: list[asyncio.subprocess.Process], number: signal.Signals) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):  # the child has just ended
            child.send_signal(number)


async def _start_child(sock: socket.socket, extra: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.cli",
        "gateway",
        f"--child-fd={sock.fileno()}",
        pass_fds=(sock.fileno(),),
        stdin=asyncio.subprocess.PIPE,  # stays open while this process lives, so the child notices its end
        env={**os.environ, **extra},
    )


_GATEWAY_CONNECTIONS = 4
_SHADOW_KNOWN_WITHIN_S = 2.0
"""The start line waits so long for Postgres to say whether shadow mode is on."""


@asynccontextmanager
async def links(settings: Settings, config: Config) -> AsyncIterator[Links | None]:
    """Yield what the gateway needs to serve links in mails; None without BILLING_LINK_SECRET. Raises InvalidSettings.

    It connects to Postgres only when a link is opened, so that webhooks do not depend on the database.
    """
    if settings.link_secret is None:
        if config.mail.customer_portal:
            raise InvalidSettings("mail.customer_portal: needs BILLING_LINK_SECRET for dispatcher and gateway")
        yield None
        return
    storage = Storage(settings.exports_place)
    claimer = new_claimer()
    orders = await ExportOrders.connect(
        settings.database_url, claimer=claimer, pool_size=_GATEWAY_CONNECTIONS, application="billing-links"
    )
    try:
        async with _portal(settings, config) as portal:
            yield Links(
                settings.link_secrets,
                ExportReader(orders, storage),
                Unsubscriptions(orders.pool, settings.link_secrets),
                portal=portal,
            )
    finally:
        await orders.close()


def portal_key(settings: Settings, config: Config) -> ApiKey:
    """Return the key that opens customer portals. Raises InvalidSettings."""
    if settings.portal_api_key is None:
        raise InvalidSettings("BILLING_PORTAL_API_KEY: mail.customer_portal needs a Stripe key that opens portals")
    return parse_key(settings.portal_api_key, mode=config.mode, name="BILLING_PORTAL_API_KEY")


@asynccontextmanager
async def _portal(settings: Settings, config: Config) -> AsyncIterator[Portal | None]:
    """Yield what opens customer portals, None if the config does not use them. Raises InvalidSettings."""
    mail = config.mail
    if not mail.customer_portal:
        yield None
        return
    key = portal_key(settings, config)
    # Stripe's library takes a tenth of a second to load: only a gateway that opens portals does.
    from sinks.stripe_api.api import StripeApi
    from sinks.stripe_api.portal import PortalApi

    api = StripeApi(key, parse_base(settings.stripe_api_base), total_s=ANSWER_WITHIN_S)
    try:
        sessions = PortalApi(api, mail.app_url, mail.portal_configuration)
        yield Portal(settings.link_secrets, sessions, hosts=mail.stripe_hosts)
    finally:
        await api.close()
