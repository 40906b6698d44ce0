"""Makes queued calls to Stripe, the last step of the flow. Survives restarts and failures of Postgres, Kafka, Stripe.

A crash between Stripe's response and the commit of `done` repeats a call. This is harmless: a POST has the same
idempotency key, so Stripe does not execute it again; the event of a GET has the same id, so the ledger drops it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import assert_never

import structlog

from sinks.outbox.loop import OutboxLoop, Pace
from sinks.outbox.outage import Outage
from sinks.stripe_calls.caller import Caller, CallVerdict, Done, Failed, Later, NotNow
from sinks.stripe_calls.calls import Calls, QueuedCall
from sinks.stripe_calls.metrics import CallMetrics

log = structlog.get_logger(__name__)

LANES = 8
"""Concurrent calls: enough for 20 calls a second, as Stripe usually takes a third of a second per call."""


class CallDispatcher:
    """Makes calls with `run` until stopped. `stripe_trouble`, `outbox_trouble` and `stuck` report problems.

    Without a `caller` (no API key) it makes no calls and only measures the outbox.
    """

    def __init__(
        self,
        calls: Calls,
        caller: Caller | None,
        metrics: CallMetrics,
        *,
        clock: Callable[[], datetime],
        pace: Pace | None = None,
        lanes: int = LANES,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._calls = calls
        self._caller = caller
        self._metrics = metrics
        self._clock = clock
        self._outage = Outage(clock, chance)
        self._lanes = OutboxLoop("stripe", lanes, pace or Pace(), self._outage, clock=clock)
        metrics.enabled.set(caller is not None)

    def wake(self) -> None:
        """Check the outbox now."""
        self._lanes.wake()

    def stop(self) -> None:
        """Finish the calls in flight and return from `run`."""
        self._lanes.stop()

    def stripe_trouble(self) -> str | None:
        """Return why calls are paused, or None."""
        return self._outage.reason

    def outbox_trouble(self) -> str | None:
        """Return why the outbox cannot be read, or None."""
        return self._lanes.store_trouble

    def stuck(self) -> str | None:
        """Return the reason why this process must be restarted, or None."""
        return self._lanes.stuck()

    def note(self) -> str:
        """Return a text for operators: whether calls are made, and if not, why."""
        return "on" if self._caller is not None else "off: BILLING_STRIPE_API_KEY is not set, calls stay queued"

    async def run(self) -> None:
        """Run until `stop`. Unexpected exceptions of a lane are raised, so that the process ends and is restarted."""
        await self._lanes.run(self._turn, watch=self._watch_depth)

    async def _turn(self, number: int) -> bool:
        """Claim and make one call. Returns whether the lane should continue without a pause."""
        if self._caller is None:
            return False
        if self._outage.is_pausing or (self._outage.is_on and number != 0):  # during an outage, only lane 0 checks
            return False
        now = self._clock()
        if not await self._calls.has_due(now):
            self._lanes.store_trouble = None
            return False
        claimed = await self._calls.claim(now, 1)
        self._lanes.store_trouble = None
        for call in claimed:
            await self._make(self._caller, call)
        return bool(claimed) and not self._outage.is_on

    async def _make(self, caller: Caller, call: QueuedCall) -> None:
        started = time.perf_counter()
        verdict = await caller.make(call)
        seconds = time.perf_counter() - started
        kept = await self._settle(call, verdict)
        self._report(call, verdict, seconds, kept=kept)

    async def _settle(self, call: QueuedCall, verdict: CallVerdict) -> bool:
        now = self._clock()
        match verdict:
            case Done():
                self._is_back()
                return await self._lanes.insist(partial(self._calls.mark_done, call, now), call.key, call.claimed_until)
            case Later():
                self._is_back()
                return await self._calls.retry(call, verdict.at, verdict.reason)
            case Failed():
                return await self._calls.fail(call, verdict.reason)
            case NotNow():
                if verdict.reason is not None:
                    self._pause_all(verdict.reason, verdict)
                return await self._calls.give_back(call, now, verdict.reason)
            case _:
                assert_never(verdict)

    def _pause_all(self, reason: str, verdict: NotNow) -> None:
        pause = self._outage.begin(reason, verdict.at_least)
        if pause is None:
            return
        self._metrics.paused.set(1)
        log.warning(
            "no call can be made, pausing",
            action="stripe.paused",
            reason=reason,
            failures=self._outage.failures,
            pause_s=round(pause.total_seconds(), 1),
        )

    def _is_back(self) -> None:
        if self._outage.end():
            log.info("calls are made again", action="stripe.resumed", failures=self._outage.failures)
            self._lanes.wake()
        self._outage.succeeded()
        self._metrics.paused.set(0)

    def _report(self, call: QueuedCall, verdict: CallVerdict, seconds: float, *, kept: bool) -> None:
        details: dict[str, object] = {
            "key": call.key,
            "event_id": call.event_id,
            "customer": call.customer_id,
            "account": call.account,
            "method": call.method,
            "path": call.path,
            "purpose": call.purpose,
            "attempt": call.attempts,
            "ms": round(seconds * 1000, 1),
        }
        match verdict:
            case Done():
                outcome, level = "done", "info"
                details |= {"request_id": verdict.request_id, "answer_event_id": verdict.event_id}
                self._metrics.call_seconds.observe(seconds)
            case Later():
                outcome, level = "retried", "warning"
                details |= {"next_attempt_at": verdict.at.isoformat(), "reason": verdict.reason}
            case Failed():
                outcome, level = "failed", "error"
                details |= {"reason": verdict.reason}
            case NotNow():
                outcome, level = "given_back", "warning"
                details |= {"reason": verdict.reason}
            case _:
                assert_never(verdict)
        if not kept:
            details["claim"], level = "lost", "error"
        self._metrics.settled.labels(call.purpose, outcome).inc()
        action = f"stripe.call_{outcome}"
        getattr(log, level)(action, action=action, **details)

    async def _watch_depth(self) -> None:
        now = self._clock()
        depth = await self._calls.depth(now)
        if self._caller is None:
            self._lanes.store_trouble = None
        self._metrics.open.set(depth.open)
        due = (now - depth.oldest_due).total_seconds() if depth.oldest_due is not None else 0.0
        self._metrics.oldest_due_seconds.set(max(due, 0.0))
