"""All outboxes of a system in one place, for tests of shadow mode: due rows are delivered until none is left."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from ops.processes.dispatcher import call_dispatcher, exporter, feed_dispatcher, mail_dispatcher, mail_parts
from schemas.settings import Config, Settings
from schemas.timing import utc_now
from sinks.email.metrics import MailMetrics
from sinks.outbox.claims import new_claimer
from sinks.outbox.loop import OutboxLoop

_MOST = 10_000


async def settle(settings: Settings, config: Config) -> None:
    """Claim and deliver what is due in every outbox, as `billing dispatcher` does."""
    metrics, claimer = MailMetrics(), new_claimer()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        loops: list[OutboxLoop[Any]] = [
            await enter(mail_dispatcher(settings, config, *mail_parts(settings, config), metrics, claimer)),
            await enter(call_dispatcher(settings, config, metrics.registry, claimer=claimer, clock=utc_now)),
            await enter(exporter(settings, metrics.registry, claimer=claimer, clock=utc_now)),
            await enter(feed_dispatcher(settings, config, metrics.registry, claimer=claimer, clock=utc_now)),
        ]
        try:
            for loop in loops:
                for _ in range(_MOST):
                    if not await loop.turn(0):
                        break
        finally:
            for loop in loops:
                await loop.close()
