"""Makes queued calls to Stripe, the last step of the flow. Survives restarts and failures of Postgres, Kafka, Stripe.

A crash between Stripe's response and the commit of `done` repeats a call. This is harmless: a POST has the same
idempotency key, so Stripe does not execute it again; the event of a GET has the same id, so the ledger drops it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import datetime

from sinks.outbox.loop import OutboxLoop
from sinks.outbox.pace import LoopPace
from sinks.outbox.verdicts import Done, NotTried, Verdict
from sinks.stripe_calls.caller import Caller
from sinks.stripe_calls.calls import Calls, QueuedCall
from sinks.stripe_calls.metrics import CallMetrics

LANES = 8
"""Concurrent calls: enough for 20 calls a second, as Stripe usually takes a third of a second per call."""


class CallDispatcher(OutboxLoop[QueuedCall]):
    """Makes calls with `run` until stopped. Without a `caller` (no API key) it only measures the outbox."""

    action = "stripe"
    store_check, service_check, lanes_check = "stripe_outbox", "stripe", "callers"
    row_action = "stripe.call_"
    down_action, up_action = "stripe.paused", "stripe.resumed"

    def __init__(
        self,
        calls: Calls,
        caller: Caller | None,
        metrics: CallMetrics,
        *,
        clock: Callable[[], datetime],
        pace: LoopPace | None = None,
        lanes: int = LANES,
        chance: Callable[[], float] = random.random,
    ) -> None:
        address = caller.address if caller is not None else ""
        super().__init__(
            calls, metrics, clock=clock, pace=pace or LoopPace(), lanes=lanes, address=address, chance=chance
        )
        self._caller = caller
        self._call_metrics = metrics
        metrics.enabled.set(caller is not None)

    def note(self) -> str:
        """Return a text for operators: whether calls are made, and if not, why."""
        return "on" if self._caller is not None else "off: BILLING_STRIPE_API_KEY is not set, calls stay queued"

    async def turn(self, lane: int) -> bool:
        return await super().turn(lane) if self._caller is not None else False

    async def deliver(self, row: QueuedCall, _lane: int) -> Verdict:
        return await self._caller.make(row) if self._caller is not None else NotTried()

    def leaves(self, row: QueuedCall) -> bool:
        return row.method != "GET"

    def fields(self, row: QueuedCall) -> Mapping[str, object]:
        return {
            "event_id": row.event_id,
            "customer": row.customer_id,
            "account": row.account,
            "method": row.method,
            "path": row.path,
            "purpose": row.purpose,
        }

    def kind(self, row: QueuedCall) -> str | None:
        return row.purpose

    def settled(self, _row: QueuedCall, verdict: Verdict, seconds: float) -> None:
        if isinstance(verdict, Done):
            self._call_metrics.call_seconds.observe(seconds)

    async def watch(self) -> None:
        await super().watch()
        if self._caller is None:
            self._looked()
