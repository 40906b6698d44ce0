"""Inside `billing dispatcher`: wires the calls to Stripe, and the same with nothing to call where there is no key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from prometheus_client import CollectorRegistry

from eventlog.append import EventLog
from schemas.settings import Settings
from sinks.outbox.wakeup import listen
from sinks.stripe_api.api import StripeApi
from sinks.stripe_api.key import ApiKey, parse_base, parse_key
from sinks.stripe_api.rate import RateLimit
from sinks.stripe_calls.caller import Caller
from sinks.stripe_calls.calls import CHANNEL, Calls
from sinks.stripe_calls.dispatcher import LANES, CallDispatcher
from sinks.stripe_calls.metrics import Metrics


def stripe_parts(settings: Settings) -> tuple[ApiKey, str] | None:
    """The key and where it may go, None without a key. Raises InvalidSettings."""
    if settings.stripe_api_key is None:
        return None
    return parse_key(settings.stripe_api_key), parse_base(settings.stripe_api_base)


@asynccontextmanager
async def call_dispatcher(
    settings: Settings, registry: CollectorRegistry, *, claimer: str, clock: Callable[[], datetime]
) -> AsyncIterator[CallDispatcher]:
    """A dispatcher of calls, to be run inside the block. Raises InvalidSettings."""
    parts = stripe_parts(settings)
    calls = await Calls.connect(settings.database_url, claimer=claimer, pool_size=LANES + 1 if parts else 1)
    try:
        if parts is None:
            yield CallDispatcher(calls, None, Metrics(registry), clock=clock, lanes=1)
            return
        api = StripeApi(*parts)
        event_log = EventLog(settings.kafka_bootstrap, settings.events_topic, client_id="billing-stripe-calls")
        caller = Caller(api, RateLimit(settings.stripe_calls_per_second), event_log, clock=clock)
        running = CallDispatcher(calls, caller, Metrics(registry), clock=clock)
        listener = asyncio.create_task(listen(settings.database_url, CHANNEL, running.wake))
        try:
            yield running
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
            await api.close()
            await asyncio.to_thread(event_log.close)
    finally:
        await calls.close()
