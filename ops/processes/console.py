"""The main function of `billing console`: serves the operator's console until it is stopped."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from console.app import create_app, create_console, let_in
from console.web import Console
from ops.processes.skeleton import Process
from ops.runtime.exit_codes import AddressTaken
from ops.runtime.operator import operator
from schemas.errors import StoreUnavailable
from schemas.settings import Config, InvalidSettings, Settings
from sinks.email.template_check import UnusableTemplates, check_templates

log = structlog.get_logger(__name__)

_RESUME_S = 15.0
_STOP_S = 5.0


async def run(settings: Settings, config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises InvalidSettings, AddressTaken."""
    try:
        check_templates(config.mail)
    except UnusableTemplates as error:
        raise InvalidSettings(f"mail.templates: {error}") from None
    console = create_console(settings, config)
    app = create_app(console)
    registry = CollectorRegistry()
    _gauges(console, registry)
    async with Process("console", settings) as process:
        state = _State()
        await process.begin(
            {"console": state.trouble},
            stuck={},
            registry=registry,
            on_signal=partial(_end_streams, console),
            mode=config.mode,
        )
        if process.stopping.is_set():
            return
        process.on_stop(console.reads.close)
        process.on_stop(console.lag.close)
        process.on_stop(console.jobs.close)
        process.on_stop(console.actions.close)
        process.on_stop(partial(_serve_no_more, runner := await _listen(app, settings), console))
        await let_in(console, operator())
        background = [asyncio.create_task(work) for work in (_resume_jobs(console), console.lag.watch())]
        process.on_stop(partial(_cancel, background))
        state.is_up = True
        process.watch()
        log.info("console.started", action="console.started", url=console.base, addresses=str(runner.addresses))
        ending = asyncio.create_task(process.stopping.wait())
        done, _ = await asyncio.wait([ending, *background], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {ending}:
            await task  # a background task ends only by an error


class _State:
    def __init__(self) -> None:
        self.is_up = False

    def trouble(self) -> str | None:
        return None if self.is_up else "starting"


async def _listen(app: web.Application, settings: Settings) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S)
    await runner.setup()
    host, port = settings.console_host, settings.console_port
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise AddressTaken(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return runner


async def _serve_no_more(runner: web.AppRunner, console: Console) -> None:
    await console.live.close()
    await runner.cleanup()


async def _resume_jobs(console: Console) -> None:
    """Take over jobs whose console has ended, and end records of actions whose console has ended, now and then."""
    while True:
        try:
            await console.jobs.resume()
            await console.actions.end_lost()
        except StoreUnavailable as error:
            log.warning("console.resume_retry", action="console.resume_retry", error=str(error))
        await asyncio.sleep(_RESUME_S)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _end_streams(console: Console) -> None:
    console.live.end()


def _gauges(console: Console, registry: CollectorRegistry) -> None:
    watchers = Gauge("billing_console_watchers", "Pages that receive live updates now.", registry=registry)
    watchers.set_function(lambda: console.live.watchers)
    jobs = Gauge("billing_console_jobs", "Replays that this console is working on.", registry=registry)
    jobs.set_function(lambda: console.jobs.working)
