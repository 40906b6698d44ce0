"""The main function of `billing scheduler`: appends due timers to the log until it is stopped."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from functools import partial

import structlog

from eventlog.append import EventAppender
from ops.processes.skeleton import Process
from ops.processes.topics import log_differences_later
from ops.runtime.clock import clock_from
from recovery.stripe_lists import key_and_base
from scheduler.asked_checks import AskedChecks
from scheduler.audit import AuditSchedule
from scheduler.due_timers import DueTimers
from scheduler.expiry import ExpiryWatch
from scheduler.prune import PruneSchedule
from scheduler.reconcile import ReconcileSchedule
from scheduler.repeated import RepeatedTask
from scheduler.retry_failed import RetryFailed
from scheduler.timers import Scheduler
from schemas.settings import Config, Settings
from schemas.timing import utc_now
from sinks.payloads.archive import PayloadArchive

log = structlog.get_logger(__name__)

_STOP_S = 15.0
"""Seconds to wait at the end for a reconciliation, an audit or a retry, which may be waiting for Kafka."""


async def run(settings: Settings, config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises InvalidSettings, AddressTaken."""
    repeated = _repeated(settings, config)
    clock = clock_from(os.environ)
    async with Process("scheduler", settings) as process:
        event_log = EventAppender(settings.kafka, settings.events_topic, client_id="billing-scheduler")
        process.on_stop(partial(asyncio.to_thread, event_log.close))
        schedule = Scheduler(
            partial(DueTimers.connect, settings.database_url), event_log, clock=clock, ahead=clock() - utc_now()
        )
        retrying, asked = RetryFailed(settings), AskedChecks(settings, config)
        await process.begin(
            {"timers": schedule.trouble},
            stuck={"turns": schedule.stuck},
            alive={"turns": schedule.stuck},
            notes={
                **{name: task.note if task is not None else _off for name, task in repeated.items()},
                "retry_failed": retrying.note if settings.retry_failed_pause_s else _off,
                "asked_checks": asked.note,
            },
            on_signal=schedule.stop,
            mode=config.mode,
        )
        background = [asyncio.create_task(task.run()) for task in repeated.values() if task is not None]
        background.append(asyncio.create_task(ExpiryWatch(settings, clock=utc_now).run()))
        background.append(asyncio.create_task(asked.run()))
        if settings.retry_failed_pause_s:
            background.append(asyncio.create_task(retrying.run()))
        process.on_stop(partial(_end, background))
        process.watch()
        log_differences_later(settings, config)
        log.info("scheduler.started", action="scheduler.started", topic=settings.events_topic)
        await schedule.run()


async def _end(background: list[asyncio.Task[None]]) -> None:
    for work in background:
        work.cancel()
    await asyncio.wait(background, timeout=_STOP_S)


def _off() -> str:
    return "off"


def _repeated(settings: Settings, config: Config) -> dict[str, RepeatedTask | None]:
    """Return the scheduled tasks, None for what is off. Raises InvalidSettings."""
    if settings.reconcile_pause_s or settings.audit_pause_s:
        key_and_base(settings, config)
    PayloadArchive(settings.payloads_url)  # refuses an address that cannot be used
    pauses: dict[type[RepeatedTask], float] = {
        ReconcileSchedule: settings.reconcile_pause_s,
        AuditSchedule: settings.audit_pause_s,
        PruneSchedule: settings.prune_every_s,
    }
    return {
        kind.name: kind(settings, config, every=timedelta(seconds=pause), clock=utc_now) if pause else None
        for kind, pause in pauses.items()
    }
