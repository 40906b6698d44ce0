"""The last stretch of the flow: queued mails leave, however often Postgres, the mail server or we ourselves go away.

A few senders work side by side, each with its own SMTP connection and its own small claims; Postgres keeps them, and
other dispatchers, apart. Between the server's 250 and our `sent` lies the one window in which a crash sends a
mail twice; nothing stands in it but that one update, and both copies bear the same Message-ID.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

import structlog

from schemas.errors import StoreUnavailable
from sinks.email.backoff import pause_while_down
from sinks.email.delivery import Clock, Courier, Failed, Later, NoRecipient, NotTried, Sent, Verdict
from sinks.email.message import QueuedMail
from sinks.email.metrics import Metrics
from sinks.email.outbox import Outbox

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How eager, in seconds of real time."""

    poll_s: float = 3.0
    claim_size: int = 4
    """Times the link's 120 s a letter stays below the claim's 10 minutes."""
    store_pause_s: float = 2.0
    finish_s: float = 30.0
    """For the mail in hand when told to stop."""
    close_idle_s: float = 30.0
    stuck_s: float = 900.0
    """Without a turn for so long, a sender hangs: a mail and its mark may take as long as a claim, no longer."""


class Dispatcher:
    """`run` until stopped; `trouble` and `stuck` tell how it goes."""

    def __init__(
        self,
        outbox: Outbox,
        couriers: Sequence[Courier],
        metrics: Metrics,
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
        self._chance = chance
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._down_failures = 0
        self._down_until: datetime | None = None
        self._down_reason: str | None = None
        self._store_trouble: str | None = "the outbox has not been read yet"
        self._turns = [time.monotonic()] * len(couriers)

    def wake(self) -> None:
        """Look at the outbox now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the mails in hand, give back the others, return from `run`."""
        self._stopping.set()
        self._wake.set()

    def mail_server_trouble(self) -> str | None:
        """Why sending is paused, or None."""
        return self._down_reason

    def outbox_trouble(self) -> str | None:
        """Why the outbox cannot be read, or None."""
        return self._store_trouble

    def stuck(self) -> str | None:
        """A reason to restart this process, or None."""
        idle = time.monotonic() - min(self._turns)
        return f"a sender has made no progress for {idle:.0f} s" if idle > self._pace.stuck_s else None

    async def run(self) -> None:
        """Returns after `stop`. Raises what nobody foresaw: better to end loudly than to go on half alive."""
        senders = [asyncio.create_task(self._send_on(i, courier)) for i, courier in enumerate(self._couriers)]
        watcher = asyncio.create_task(self._watch_depth())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([*senders, watcher, stopped], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            _, late = await asyncio.wait(senders, timeout=self._pace.finish_s)
            if late:
                log.warning("a mail in hand did not end in time", action="email.stopped_amid", senders=len(late))
        finally:
            tasks = [*senders, watcher, stopped]
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for courier in self._couriers:
                await courier.link.close()
        for end in ended:
            if isinstance(end, Exception):
                raise end

    async def _send_on(self, number: int, courier: Courier) -> None:
        while not self._stopping.is_set():
            self._turns[number] = time.monotonic()
            self._wake.clear()
            try:
                busy = await self._turn(number, courier)
            except StoreUnavailable as error:
                self._store_trouble = str(error)
                log.warning("the outbox does not answer", action="email.store_unavailable", error=str(error))
                await self._pause(self._pace.store_pause_s)
                continue
            if not busy:
                if courier.link.idle_s > self._pace.close_idle_s:
                    await courier.link.close()
                await self._wait_for_work()

    async def _turn(self, number: int, courier: Courier) -> bool:
        """One claim and its mails; whether there was anything to do."""
        now = self._clock()
        if self._down_until is not None and (now < self._down_until or not await self._is_server_up(courier)):
            return False
        due = await self._outbox.has_due(now)
        self._looked(now)
        if not due or not await self._is_server_up(courier):
            return False
        mails = await self._outbox.claim(now, self._pace.claim_size)
        while mails and not self._stopping.is_set():
            self._turns[number] = time.monotonic()
            verdict = await self._deliver(courier, mails.pop(0))
            if isinstance(verdict, NotTried):
                break
            self._down_failures = 0  # a whole conversation, not just a greeting
        for mail in mails:
            await self._outbox.give_back(mail, self._clock(), None)
        return bool(self._down_until is None)

    async def _is_server_up(self, courier: Courier) -> bool:
        # Before the claim, so that a server that is down costs no mail a try.
        reason = await courier.reach()
        if reason is None:
            self._server_is_up()
        else:
            self._server_is_down(reason)
        return reason is None

    async def _deliver(self, courier: Courier, mail: QueuedMail) -> Verdict:
        started = time.perf_counter()
        verdict = await courier.deliver(mail)
        seconds = time.perf_counter() - started
        kept = await self._settle(mail, verdict)
        self._report(mail, verdict, seconds, kept=kept)
        return verdict

    async def _settle(self, mail: QueuedMail, verdict: Verdict) -> bool:
        now = self._clock()
        match verdict:
            case Sent():
                return await self._insist_on_sent(mail, now, verdict)
            case Later():
                return await self._outbox.retry(mail, verdict.at, verdict.reason)
            case NoRecipient():
                return await self._outbox.give_back(mail, verdict.at, verdict.reason)
            case Failed():
                return await self._outbox.fail(mail, verdict.reason)
            case NotTried():
                if verdict.server is not None:
                    self._server_is_down(verdict.server)
                return await self._outbox.give_back(mail, now, verdict.server)
            case _:
                assert_never(verdict)

    async def _insist_on_sent(self, mail: QueuedMail, now: datetime, verdict: Sent) -> bool:
        """The mail is out, so Postgres must hear of it: tried until the claim runs out."""
        while True:
            try:
                return await self._outbox.mark_sent(mail, now, verdict.message_id, verdict.recipient)
            except StoreUnavailable as error:
                self._store_trouble = str(error)
                if self._clock() >= mail.claimed_until:
                    raise
                log.warning(
                    "sent, but cannot be marked so yet", action="email.mark_failed", key=mail.key, error=str(error)
                )
                await asyncio.sleep(self._pace.store_pause_s)

    def _report(self, mail: QueuedMail, verdict: Verdict, seconds: float, *, kept: bool) -> None:
        facts: dict[str, object] = {
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
                facts |= {"to": verdict.masked, "message_id": verdict.message_id}
                self._metrics.send_seconds.observe(seconds)
            case Later():
                outcome, level = "retried", "warning"
                facts |= {"next_attempt_at": verdict.at.isoformat(), "reason": verdict.reason}
            case NoRecipient():
                outcome, level = "no_recipient", "info"
                facts |= {"next_attempt_at": verdict.at.isoformat(), "reason": verdict.reason}
            case Failed():
                outcome, level = "failed", "error"
                facts |= {"reason": verdict.reason}
            case NotTried():
                outcome, level = "given_back", "warning"
                facts |= {"reason": verdict.server}
            case _:
                assert_never(verdict)
        if not kept:
            facts["claim"], level = "lost", "error"
        self._metrics.settled.labels(mail.template, outcome).inc()
        action = f"email.{outcome}"
        getattr(log, level)(action, action=action, **facts)

    def _server_is_down(self, reason: str) -> None:
        now = self._clock()
        if self._down_until is not None and now < self._down_until:
            return  # several senders met the same outage
        self._down_failures += 1
        pause = pause_while_down(self._down_failures, self._chance())
        self._down_until = now + pause
        self._down_reason = reason
        self._metrics.server_down.set(1)
        log.warning(
            "the mail server is down, pausing",
            action="email.server_down",
            reason=reason,
            failures=self._down_failures,
            pause_s=round(pause.total_seconds(), 1),
        )

    def _server_is_up(self) -> None:
        if self._down_until is not None:
            log.info("the mail server is back", action="email.server_up", failures=self._down_failures)
        self._down_until, self._down_reason = None, None
        self._metrics.server_down.set(0)

    def _looked(self, now: datetime) -> None:
        self._store_trouble = None
        self._metrics.last_loop.set(now.timestamp())

    async def _wait_for_work(self) -> None:
        if self._down_until is not None:  # new mail is no reason to knock earlier
            left = (self._down_until - self._clock()).total_seconds()
            await self._pause(min(self._pace.poll_s, max(left, 0.05)))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._pace.poll_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _watch_depth(self) -> None:
        while True:
            now = self._clock()
            with contextlib.suppress(StoreUnavailable):  # the senders say so, and /readyz
                depth = await self._outbox.depth(now)
                self._metrics.open.set(depth.open)
                due = (now - depth.oldest_due).total_seconds() if depth.oldest_due is not None else 0.0
                self._metrics.oldest_due_seconds.set(max(due, 0.0))
            await asyncio.sleep(self._pace.poll_s)
