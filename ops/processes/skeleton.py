"""The parts that every long-running process has: signals, ops server, watchdog, an ordered stop, and exit codes.

    run_process ─▶ Process: connect clients ─▶ begin (ops server, signals) ─▶ watch ─▶ work ─▶ stop in reverse order

Two exits bypass it on purpose: a stuck or braked process ends at once with `os._exit`, because an orderly stop would
commit offsets. A main passes its own `give_up` if it needs another end than the watchdog's.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog
import uvloop
from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from ops.runtime.exit_codes import EXPECTED, ExitCode, exit_code_of
from ops.runtime.health import Check, OpsServer
from ops.runtime.printable import error_line
from ops.runtime.watchdog import Watchdog, end_at_once
from schemas.settings import Mode, Settings
from sinks.postgres.mode_check import check_mode
from sinks.postgres.schema_check import SchemaCheck
from sinks.postgres.shadow_watch import ShadowWatch

log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_process(
    name: str,
    main: Callable[[], Coroutine[Any, Any, ExitCode | None]],
    *,
    policy: bool = False,
    on_uvloop: bool = True,
) -> int:
    """Runs the main of `billing NAME`, on uvloop by default, and returns its exit code.

    An expected error (a setting, a service that does not answer, a taken port) becomes one line on stderr. With
    `policy` uvloop also becomes the loop of other threads: Faust's consumer creates a loop of its own.
    """
    if policy:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if on_uvloop and not policy else None) as runner:
        try:
            return runner.run(main()) or ExitCode.DONE
        except EXPECTED as error:
            error_line(name, error)
            return exit_code_of(error)


class Process:
    """One process between its start and its stop. Use it as an async context manager.

    `stopping` is set by SIGTERM and SIGINT. At the end the watchdog stops first; then everything given to `on_stop`
    stops, the last one first, also if the start failed halfway.
    """

    def __init__(self, name: str, settings: Settings, *, give_up: Callable[[str], None] = end_at_once) -> None:
        self.name = name
        self.stopping = asyncio.Event()
        self._settings = settings
        self._give_up = give_up
        self._stops = AsyncExitStack()
        self._watchdog: Watchdog | None = None

    def on_stop(self, stop: Callable[[], Awaitable[object]]) -> None:
        """Await `stop()` at the end. Register it right after the start of what it stops."""
        self._stops.push_async_callback(stop)

    async def begin(
        self,
        ready: Mapping[str, Check],
        *,
        stuck: Mapping[str, Check],
        alive: Mapping[str, Check] | None = None,
        notes: Mapping[str, Callable[[], str]] | None = None,
        registry: Collector = REGISTRY,
        on_signal: Callable[[], None] | None = None,
        has_ops_server: bool = True,
        mode: Mode | None = None,
    ) -> None:
        """Start the ops server, listen to signals, and wait for the database schema of this version.

        Raises AddressTaken. The gateway has no ops server and needs no schema. After a signal during the wait
        `stopping` is set.

        `ready` decides /readyz; `alive` and the watchdog decide /livez too. `stuck` are the watchdog's checks, which
        start with `watch`. `on_signal` is called after `stopping` is set. A database with events of another mode than
        `mode` raises InvalidSettings.
        """
        self._watchdog = watchdog = Watchdog(stuck, limit_s=self._settings.stuck_after_s, end=self._give_up)
        schema = SchemaCheck(self._settings.database_url)
        shadow = ShadowWatch(self._settings.database_url)
        if has_ops_server:
            server = OpsServer(
                self._settings.ops_host,
                self._settings.ops_port,
                {"schema": schema.trouble, **ready},
                alive={**(alive or {}), "progress": watchdog.trouble},
                notes={**(notes or {}), "shadow": shadow.note},
                registry=registry,
            )
            self.on_stop(server.stop)
            await server.start()

        def stop() -> None:
            self.stopping.set()
            if on_signal is not None:
                on_signal()

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, stop)
        if has_ops_server:
            await schema.until_ready(self.stopping)
            if mode is not None and not self.stopping.is_set():
                await check_mode(self._settings.database_url, mode)
            if not self.stopping.is_set():
                watching = asyncio.create_task(shadow.run())
                self.on_stop(partial(_cancel, watching))

    def watch(self) -> None:
        """Start the watchdog. Call it when the work begins; a start may take longer than the watchdog's limit."""
        if self._watchdog is None:
            raise RuntimeError("begin the process before its watch")
        self._watchdog.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._watchdog is not None:
                await self._watchdog.stop()
        finally:
            await self._stops.__aexit__(kind, error, trace)
        if error is None:
            log.info(f"{self.name}.stopped", action=f"{self.name}.stopped")


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
