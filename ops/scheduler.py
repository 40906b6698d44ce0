"""`billing scheduler`: wires the scheduler and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from functools import partial

import structlog
import typer
import uvloop

from ops.entry import EXIT_INVALID_SETTINGS, settings_and_config
from ops.health import OpsServer
from schemas.settings import InvalidSettings, Settings
from sinks.event_log import EventLog
from sinks.postgres.due_timers import DueTimers
from sinks.timers import Scheduler

log = structlog.get_logger(__name__)


def scheduler() -> None:
    """Append due timers to the log: reminders, dunning steps, waiting events.

    Example: billing scheduler

    Several may run at once: they take turns. SIGTERM lets the turn in hand end and exits 0. Exits 2 if a setting is
    unusable.
    """
    settings, _config = settings_and_config()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run(settings))
        except InvalidSettings as error:
            typer.echo(f"billing scheduler: {error}", err=True)
            raise typer.Exit(EXIT_INVALID_SETTINGS) from None


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises InvalidSettings, OSError when the ops address is taken."""
    event_log = EventLog(settings.kafka_bootstrap, settings.events_topic, client_id="billing-scheduler")
    schedule = Scheduler(partial(DueTimers.connect, settings.database_url), event_log, clock=_utc_now)
    health = OpsServer(
        settings.ops_host, settings.ops_port, {"timers": schedule.trouble}, alive={"turns": schedule.stuck}
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, schedule.stop)
    try:
        await health.start()
        log.info("scheduler.started", action="scheduler.started", topic=settings.events_topic)
        await schedule.run()
    finally:
        await health.stop()
        await asyncio.to_thread(event_log.close)
    log.info("scheduler.stopped", action="scheduler.stopped")


def _utc_now() -> datetime:
    return datetime.now(UTC)
