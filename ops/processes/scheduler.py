"""The main function of `billing scheduler`: appends due timers to the log until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from eventlog.append import EventAppender
from ops.runtime.clock import clock_from
from ops.runtime.health import OpsServer
from ops.runtime.watchdog import Watchdog
from recovery.reconcile.wiring import key_and_base
from scheduler.due_timers import DueTimers
from scheduler.reconcile import ReconcileSchedule
from scheduler.retry_failed import RetryFailed
from scheduler.timers import Scheduler
from schemas.settings import Config, Settings
from sinks.postgres.schema_check import SchemaCheck

log = structlog.get_logger(__name__)

_STOP_S = 15.0
"""Seconds to wait at the end for a reconciliation or a retry, which may be waiting for Kafka."""


async def run(settings: Settings, config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises InvalidSettings, OpsAddressTaken."""
    reconciling = _reconciling(settings, config)
    event_log = EventAppender(settings.kafka, settings.events_topic, client_id="billing-scheduler")
    schedule = Scheduler(partial(DueTimers.connect, settings.database_url), event_log, clock=clock_from(os.environ))
    watchdog = Watchdog({"turns": schedule.stuck}, limit_s=settings.stuck_after_s)
    retrying = RetryFailed(settings)
    schema = SchemaCheck(settings.database_url)
    stopping = asyncio.Event()
    health = OpsServer(
        settings.ops_host,
        settings.ops_port,
        {"schema": schema.trouble, "timers": schedule.trouble},
        alive={"turns": schedule.stuck, "progress": watchdog.trouble},
        notes={
            "reconcile": reconciling.note if reconciling is not None else lambda: "off",
            "retry_failed": retrying.note if settings.retry_failed_every_s else lambda: "off",
        },
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        schedule.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    background: list[asyncio.Task[None]] = []
    try:
        await health.start()
        await schema.until_ready(stopping)
        if reconciling is not None:
            background.append(asyncio.create_task(reconciling.run()))
        if settings.retry_failed_every_s:
            background.append(asyncio.create_task(retrying.run()))
        watchdog.start()
        log.info("scheduler.started", action="scheduler.started", topic=settings.events_topic)
        await schedule.run()
    finally:
        await watchdog.stop()
        for work in background:
            work.cancel()
        if background:
            await asyncio.wait(background, timeout=_STOP_S)
        await health.stop()
        await asyncio.to_thread(event_log.close)
    log.info("scheduler.stopped", action="scheduler.stopped")


def _reconciling(settings: Settings, config: Config) -> ReconcileSchedule | None:
    """Return the scheduled reconciliation, None if it is off. Raises InvalidSettings."""
    if not settings.reconcile_every_s:
        return None
    key_and_base(settings, config)
    return ReconcileSchedule(settings, config, every=timedelta(seconds=settings.reconcile_every_s), clock=_utc_now)


def _utc_now() -> datetime:
    return datetime.now(UTC)
