"""Sends one claimed mail to the mail server and returns the result as a verdict, which the loop stores."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from schemas.timing import Timetable
from sinks.email.message import ComposedMail, Composer, QueuedMail, RecipientUnknown, UnsendableMail
from sinks.email.outbox import RECIPIENT_UNKNOWN
from sinks.email.smtp import ConnectionLost, Deferred, MailRefused, RefusedForAll, ServerUnavailable, SmtpLink
from sinks.outbox.verdicts import Done, Failed, NotTried, NotYet, RetryAt, RowRefused, Verdict, Withheld
from sinks.postgres.tables import HELD

log = structlog.get_logger(__name__)


class MailSender:
    """Composes and sends one mail at a time over one persistent SMTP connection."""

    def __init__(self, composer: Composer, link: SmtpLink, *, chance: Callable[[], float] = random.random) -> None:
        self._composer = composer
        self.link = link
        self._chance = chance

    async def reach(self) -> str | None:
        """Return why the mail server cannot be reached, or None if it responds."""
        try:
            await self.link.ensure()
        except ServerUnavailable as error:
            return str(error)
        return None

    async def deliver(self, mail: QueuedMail) -> Verdict:
        """Send `mail` and return the verdict. Faults of the mail or of the mail server do not raise."""
        if mail.attempts > TRIES:
            return Failed(
                f"{TRIES} tries are used up, and the last one has no result: dispatcher or Postgres stopped meanwhile"
            )
        composed = self._compose(mail)
        if not isinstance(composed, ComposedMail):
            return composed
        recipient = composed.recipient.addr_spec
        try:
            await self.link.ensure()  # may take as long as a connection
            if time.monotonic() + self.link.letter_timeout_s > mail.deadline:
                return NotTried()  # the claim could expire while the mail is being sent
            await self.link.send(composed, self._composer.sender.addr_spec)
        except ServerUnavailable as error:
            return NotTried(str(error))
        except RefusedForAll as error:
            later = self._later(mail, str(error))
            verdict = later if error.may_pass else Failed(str(error))
            domain = composed.recipient.domain
            return RowRefused(reason=str(error), subject=recipient, verdict=verdict, later=later, group=domain)
        except MailRefused as error:
            return Failed(str(error))
        except Deferred as error:
            return self._later(mail, str(error))
        except ConnectionLost as error:
            return await self._after_loss(mail, str(error))
        return Done(
            columns={"message_id": composed.message_id, "recipient": recipient},
            details={"to": composed.recipient.masked, "message_id": composed.message_id},
            group=composed.recipient.domain,
        )

    def hold(self, mail: QueuedMail) -> Verdict:
        """Compose `mail` in shadow mode. What cannot be sent has the same verdict as otherwise."""
        composed = self._compose(mail)
        if not isinstance(composed, ComposedMail):
            return composed
        return Withheld(HELD, {"recipient": composed.recipient.addr_spec})

    def _compose(self, mail: QueuedMail) -> ComposedMail | NotYet | Failed:
        try:
            return self._composer.compose(mail, mail.now)
        except RecipientUnknown:
            return _without_recipient(mail)
        except UnsendableMail as error:
            return Failed(str(error))
        except Exception as error:
            # A bug triggered by this mail's data. The mail fails, which an operator sees; others continue.
            log.exception("a mail cannot be composed", action="email.compose_failed", key=mail.key)
            return Failed(f"cannot be composed: {type(error).__name__}")

    async def _after_loss(self, mail: QueuedMail, reason: str) -> Verdict:
        # If the server accepts a new connection at once, this mail caused the loss; otherwise the server is down.
        down = await self.reach()
        return NotTried(down) if down is not None else self._later(mail, reason)

    def _later(self, mail: QueuedMail, reason: str) -> RetryAt | Failed:
        pause = TIMETABLE.pause_after(mail.attempts, self._chance())
        if pause is None:
            return Failed(f"after {mail.attempts} tries: {reason}")
        return RetryAt(pause, reason)


def _without_recipient(mail: QueuedMail) -> NotYet | Failed:
    pause = pause_for_recipient(mail.age)
    if pause is None:
        hours = UNKNOWN_RECIPIENT_LIMIT // timedelta(hours=1)
        return Failed(f"the customer's address is still unknown after {hours} hours")
    return NotYet(pause, RECIPIENT_UNKNOWN, outcome="no_recipient")


TRIES = 8


TIMETABLE = Timetable(first=timedelta(seconds=80), factor=3, tries=TRIES)
"""Pauses of 80 s, 4 min, 12 min, 36 min, 1 h 48, 5 h 24 and 16 h 12: the last try is about 24 hours after the first."""


UNKNOWN_RECIPIENT_LIMIT = timedelta(hours=72)
"""A mail fails if its recipient is still unknown this long after it was queued."""


UNKNOWN_RECIPIENT_ASKED_AFTER = timedelta(minutes=1)
"""Age at which Stripe is asked for the customer.

The customer's own event arrives earlier, or never: customers created before the endpoint existed have no such event.
"""


UNKNOWN_RECIPIENT_FIRST = timedelta(seconds=30)


UNKNOWN_RECIPIENT_LONGEST = timedelta(hours=6)


def pause_for_recipient(age: timedelta) -> timedelta | None:
    """Return how long a mail queued `age` ago waits for its recipient, or None once the limit is reached.

    The pause is a quarter of the age: the customer's own event usually arrives within seconds, or else much later.
    """
    if age >= UNKNOWN_RECIPIENT_LIMIT:
        return None
    pause = min(max(age / 4, UNKNOWN_RECIPIENT_FIRST), UNKNOWN_RECIPIENT_LONGEST)
    return min(pause, UNKNOWN_RECIPIENT_LIMIT - age)
