"""`billing gateway`: the HTTP door as a process, or as several behind one port.

With BILLING_GATEWAY_PROCESSES above 1 this process only binds the port once for each child (SO_REUSEPORT: the kernel
spreads connections) and watches them; a child that dies ends them all, so that whoever supervises us sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from typing import Annotated

import structlog
import typer
import uvloop

from gateway.app import create_app, create_runner
from gateway.endpoints import Door, doors
from gateway.mail_links import Links
from gateway.metrics import Metrics
from gateway.publisher import Publisher
from ops.exports import check_exports, links
from ops.runtime.logs import configure_logging
from ops.runtime.watchdog import Watchdog
from schemas.settings import InvalidSettings, Settings, load_config, load_settings

log = structlog.get_logger(__name__)

BACKLOG = 1024
CHILDREN_END_WITHIN_S = 30.0


class PortTaken(Exception):
    """The gateway's address cannot be bound; the message is one line."""


def gateway(
    child_fd: Annotated[int | None, typer.Option("--child-fd", hidden=True)] = None,
) -> None:
    """Receive Stripe's webhooks and put them on Kafka.

    Example: BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 BILLING_CONFIG=billing.toml billing gateway

    SIGTERM lets requests in flight end, flushes the producer and exits 0. Exits 2 if a setting is missing or unusable,
    1 if the port is taken or a child process died, 70 when it is stuck.
    """
    try:
        settings = load_settings()
        found = doors(load_config(settings.config_path))
        check_exports(settings)
    except InvalidSettings as error:
        typer.echo(f"billing gateway: {error}", err=True)
        raise typer.Exit(2) from None
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    if child_fd is not None:
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


async def _serve(settings: Settings, found: Mapping[str, Door], sock: socket.socket, *, is_child: bool) -> None:
    async with links(settings) as served:
        await _serve_with(served, settings, found, sock, is_child=is_child)


async def _serve_with(
    served: Links | None, settings: Settings, found: Mapping[str, Door], sock: socket.socket, *, is_child: bool
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if is_child:
        loop.add_reader(sys.stdin.fileno(), stop.set)  # readable only at its end: the parent is gone
    metrics = Metrics()
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
