"""Sends queued mails, the last step of the flow. Survives failures of Postgres and the mail server, and restarts.

Several senders run concurrently, each with its own SMTP connection and its own small claims; row locks in Postgres keep
senders and dispatchers from claiming the same mail. A crash sends a mail twice only if it happens between the server's
250 and the commit of `sent`. Only that one update happens in between, and both copies have the same Message-ID.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import assert_never

import structlog

from sinks.email.delivery import (
    UNKNOWN_RECIPIENT_ASKED_AFTER,
    Clock,
    Failed,
    Later,
    MailSender,
    MailVerdict,
    NoRecipient,
    NotTried,
    Sent,
    Withheld,
)
from sinks.email.message import QueuedMail
from sinks.email.metrics import MailMetrics
from sinks.email.outbox import Outbox
from sinks.outbox import loop
from sinks.outbox.loop import OutboxLoop
from sinks.outbox.outage import Outage

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace(loop.Pace):
    """Intervals and limits of the loop, in seconds of real time."""

    claim_size: int = 4
    """Mails per claim: 4 mails of at most 120 s each end before the claim's 10 minutes."""
    close_idle_s: float = 30.0
    """An SMTP connection that has been idle this long is closed."""


class Dispatcher:
    """Sends mails with `run` until stopped. `mail_server_trouble`, `outbox_trouble` and `stuck` report problems."""

    def __init__(
        self,
        outbox: Outbox,
        couriers: Sequence[MailSender],
        metrics: MailMetrics,
        *,
        clock: Clock,
        pace: Pace | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._couriers = couriers
        self._metrics = metrics
        self._clock = clock
        self._pace = pace or Pace()
        self._outage = Outage(clock, chance)
        self._lanes = OutboxLoop("email", len(couriers), self._pace, self._outage, clock=clock)

    def wake(self) -> None:
        """Check the outbox now."""
        self._lanes.wake()

    def stop(self) -> None:
        """Finish the mails being sent, release the other claims, and return from `run`."""
        self._lanes.stop()

    def mail_server_trouble(self) -> str | None:
        """Return why sending is paused, or None."""
        return self._outage.reason

    def outbox_trouble(self) -> str | None:
        """Return why the outbox cannot be read, or None."""
        return self._lanes.store_trouble

    def stuck(self) -> str | None:
        """Return the reason why this process must be restarted, or None."""
        return self._lanes.stuck()

    async def run(self) -> None:
        """Run until `stop`. Unexpected exceptions of a lane are raised, so that the process ends and is restarted."""
        await self._lanes.run(self._take_turn, watch=self._watch_depth, close=self._close)

    async def _take_turn(self, number: int) -> bool:
        courier = self._couriers[number]
        busy = await self._turn(number, courier)
        if not busy and courier.link.idle_s > self._pace.close_idle_s:
            await courier.link.close()
        return busy

    async def _close(self) -> None:
        for courier in self._couriers:
            await courier.link.close()

    async def _turn(self, number: int, courier: MailSender) -> bool:
        """Claim and send mails once. Returns whether the lane should continue without a pause."""
        now = self._clock()
        if self._outage.is_on and (self._outage.is_pausing or not await self._is_server_up(courier)):
            return False
        due = await self._outbox.has_due(now)
        self._looked(now)
        if not due or not await self._is_server_up(courier):
            return False
        mails = await self._outbox.claim(now, self._pace.claim_size)
        while mails and not self._lanes.is_stopping:
            self._lanes.progress(number)
            verdict = await self._deliver(courier, mails.pop(0))
            if isinstance(verdict, NotTried):
                break
            self._outage.succeeded()  # a complete SMTP transaction, not just a greeting
        for mail in mails:
            await self._outbox.give_back(mail, self._clock(), None)
        return not self._outage.is_on

    async def _is_server_up(self, courier: MailSender) -> bool:
        # Checked before the claim, so that an unreachable server does not use up a try of any mail.
        reason = await courier.reach()
        if reason is None:
            self._server_is_up()
        else:
            self._server_is_down(reason)
        return reason is None

    async def _deliver(self, courier: MailSender, mail: QueuedMail) -> MailVerdict:
        started = time.perf_counter()
        verdict = await courier.deliver(mail)
        seconds = time.perf_counter() - started
        kept = await self._settle(mail, verdict)
        self._report(mail, verdict, seconds, kept=kept)
        return verdict

    async def _settle(self, mail: QueuedMail, verdict: MailVerdict) -> bool:
        now = self._clock()
        match verdict:
            case Sent():
                mark = partial(self._outbox.mark_sent, mail, now, verdict.message_id, verdict.recipient)
                return await self._lanes.insist(mark, mail.key, mail.claimed_until)
            case Later():
                return await self._outbox.retry(mail, verdict.at, verdict.reason)
            case NoRecipient():
                if mail.customer_id is not None and now - mail.queued_at >= UNKNOWN_RECIPIENT_ASKED_AFTER:
                    await self._outbox.ask_for_customer(mail, now)
                return await self._outbox.give_back(mail, verdict.at, verdict.reason)
            case Failed() | Withheld():
                return await self._outbox.fail(mail, verdict.reason)
            case NotTried():
                if verdict.server is not None:
                    self._server_is_down(verdict.server)
                return await self._outbox.give_back(mail, now, verdict.server)
            case _:
                assert_never(verdict)

    def _report(self, mail: QueuedMail, verdict: MailVerdict, seconds: float, *, kept: bool) -> None:
        details: dict[str, object] = {
            "key": mail.key,
            "event_id": mail.event_id,
            "customer": mail.customer_id,
            "template": mail.template,
            "attempt": mail.attempts,
            "ms": round(seconds * 1000, 1),
        }
        match verdict:
            case Sent():
                outcome, level = "sent", "info"
                details |= {"to": verdict.masked, "message_id": verdict.message_id}
                self._metrics.send_seconds.observe(seconds)
            case Later():
                outcome, level = "retried", "warning"
                details |= {"next_attempt_at": verdict.at.isoformat(), "reason": verdict.reason}
            case NoRecipient():
                outcome, level = "no_recipient", "info"
                details |= {"next_attempt_at": verdict.at.isoformat(), "reason": verdict.reason}
            case Failed():
                outcome, level = "failed", "error"
                details |= {"reason": verdict.reason}
            case Withheld():
                outcome, level = "withheld", "info"
                details |= {"reason": verdict.reason}
            case NotTried():
                outcome, level = "given_back", "warning"
                details |= {"reason": verdict.server}
            case _:
                assert_never(verdict)
        if not kept:
            details["claim"], level = "lost", "error"
        self._metrics.settled.labels(mail.template, outcome).inc()
        action = f"email.{outcome}"
        getattr(log, level)(action, action=action, **details)

    def _server_is_down(self, reason: str) -> None:
        pause = self._outage.begin(reason)
        if pause is None:
            return
        self._metrics.server_down.set(1)
        log.warning(
            "the mail server is down, pausing",
            action="email.server_down",
            reason=reason,
            failures=self._outage.failures,
            pause_s=round(pause.total_seconds(), 1),
        )

    def _server_is_up(self) -> None:
        if self._outage.end():
            log.info("the mail server is back", action="email.server_up", failures=self._outage.failures)
        self._metrics.server_down.set(0)

    def _looked(self, now: datetime) -> None:
        self._lanes.store_trouble = None
        self._metrics.last_loop.set(now.timestamp())

    async def _watch_depth(self) -> None:
        now = self._clock()
        depth = await self._outbox.depth(now)
        self._metrics.open.set(depth.open)
        due = (now - depth.oldest_due).total_seconds() if depth.oldest_due is not None else 0.0
        self._metrics.oldest_due_seconds.set(max(due, 0.0))
