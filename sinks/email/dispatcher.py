"""Sends queued mails, the last step of the flow. Survives failures of Postgres and the mail server, and restarts.

Several senders run concurrently, each with its own SMTP connection and its own small claims (sinks/outbox/loop.py). A
crash sends a mail twice only if it happens between the server's 250 and the commit of `sent`. Both copies then have the
same Message-ID.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from schemas.timing import Clock
from sinks.email.delivery import UNKNOWN_RECIPIENT_ASKED_AFTER, MailSender
from sinks.email.message import QueuedMail
from sinks.email.metrics import MailMetrics
from sinks.email.outbox import MailOutbox
from sinks.outbox.loop import OutboxLoop
from sinks.outbox.pace import LoopPace
from sinks.outbox.truth import Truth
from sinks.outbox.verdicts import Done, NotYet, Verdict


@dataclass(frozen=True, slots=True)
class MailPace(LoopPace):
    """Intervals and limits of the loop, in seconds of real time."""

    claim_size: int = 4
    """Mails per claim: 4 mails of at most 120 s each end before the claim's 10 minutes."""
    largest_claim: int = 32
    """Of a lane whose claims take less than a second. Mails that come too near to the claim's end are given back."""
    close_idle_s: float = 30.0
    """An SMTP connection that has been idle this long is closed."""


class Dispatcher(OutboxLoop[QueuedMail]):
    """Sends mails with `run` until stopped."""

    action = "email"
    store_check, service_check, lanes_check = "outbox", "mail_server", "senders"
    row_action = "email."
    down_action, up_action = "email.server_down", "email.server_up"
    reach_is_proof = True

    def __init__(
        self,
        outbox: MailOutbox,
        senders: Sequence[MailSender],
        metrics: MailMetrics,
        *,
        clock: Clock,
        truth: Truth[QueuedMail] | None,
        pace: MailPace | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Each sender is one lane. `truth` is checked before each mail (sinks/email/truth.py)."""
        self._pace: MailPace = pace or MailPace()
        super().__init__(
            outbox,
            metrics,
            clock=clock,
            pace=self._pace,
            lanes=len(senders),
            address=senders[0].link.address,
            chance=chance,
            truth=truth,
        )
        self._outbox = outbox
        self._senders = senders
        self._mail_metrics = metrics

    async def deliver(self, row: QueuedMail, lane: int) -> Verdict:
        return await self._senders[lane].deliver(row)

    async def hold(self, row: QueuedMail, lane: int) -> Verdict:
        return self._senders[lane].hold(row)

    def with_present(self, row: QueuedMail, present: Mapping[str, Any]) -> QueuedMail:
        return replace(row, **present)

    async def reach(self, lane: int) -> str | None:
        return await self._senders[lane].reach()

    def fields(self, row: QueuedMail) -> Mapping[str, object]:
        return {"event_id": row.event_id, "customer": row.customer_id, "template": row.template}

    def kind(self, row: QueuedMail) -> str | None:
        return row.template

    def settled(self, row: QueuedMail, verdict: Verdict, seconds: float) -> Awaitable[None] | None:
        if isinstance(verdict, Done):
            self._mail_metrics.send_seconds.observe(seconds)
        is_unknown = isinstance(verdict, NotYet) and verdict.outcome == "no_recipient"
        if is_unknown and row.customer_id is not None and row.age >= UNKNOWN_RECIPIENT_ASKED_AFTER:
            return self._outbox.ask_for_customer(row)
        return None

    async def idle(self, lane: int) -> None:
        link = self._senders[lane].link
        if link.idle_s > self._pace.close_idle_s:
            await link.close()

    async def close(self) -> None:
        for sender in self._senders:
            await sender.link.close()
