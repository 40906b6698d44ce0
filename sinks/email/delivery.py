"""Sends one claimed mail to the mail server and returns the result as a verdict, which the dispatcher stores."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from schemas.mail import OPTIONAL_MAILS
from schemas.settings import Mail as MailConfig
from schemas.timing import Timetable
from sinks.email.message import Composer, QueuedMail, RecipientUnknown, UnsendableMail
from sinks.email.smtp import ConnectionLost, Deferred, MailRefused, ServerUnavailable, SmtpLink

log = structlog.get_logger(__name__)

Clock = Callable[[], datetime]
"""Returns the current time in UTC."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The server accepted the mail. `masked` is the recipient's address shortened for logs."""

    message_id: str
    recipient: str
    masked: str


@dataclass(frozen=True, slots=True)
class Later:
    """The failure concerns this mail only: retry `at`. The try counts."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class NoRecipient:
    """The customer's address is not known yet: check again `at`. The try does not count."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The mail will not be sent, unless an operator requeues it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """The mail is not sent on purpose. Its row gets status `failed`, but no alert counts it."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotTried:
    """The mail server is down, or the claim ends too soon. The try does not count. `server` is the server's error."""

    server: str | None = None


MailVerdict = Sent | Later | NoRecipient | Failed | Withheld | NotTried


class MailSender:
    """Composes and sends one mail at a time over one persistent SMTP connection."""

    def __init__(
        self,
        composer: Composer,
        link: SmtpLink,
        config: MailConfig,
        *,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._composer = composer
        self.link = link
        self._send_test_mode = config.send_test_mode
        self._clock = clock
        self._chance = chance

    async def reach(self) -> str | None:
        """Return why the mail server cannot be reached, or None if it responds."""
        try:
            await self.link.ensure()
        except ServerUnavailable as error:
            return str(error)
        return None

    async def deliver(self, mail: QueuedMail) -> MailVerdict:
        """Send `mail` and return the verdict. Faults of the mail or of the mail server do not raise."""
        now = self._clock()
        if not mail.livemode and not self._send_test_mode:
            return Withheld("test mode: mail.send_test_mode is off")
        if mail.is_stopped and mail.template in OPTIONAL_MAILS:
            return Withheld("the customer has unsubscribed from these mails")
        if mail.attempts > TRIES:
            return Failed(f"{TRIES} tries ended without a result: the dispatcher stopped during each of them")
        if now + timedelta(seconds=self.link.letter_timeout_s) > mail.claimed_until:
            return NotTried()  # the claim could expire while the mail is being sent
        try:
            composed = self._composer.compose(mail, now)
        except RecipientUnknown:
            return _without_recipient(mail, now)
        except UnsendableMail as error:
            return Failed(str(error))
        except Exception as error:
            # A bug triggered by this mail's data. The mail fails, which an operator sees; others continue.
            log.exception("a mail cannot be composed", action="email.compose_failed", key=mail.key)
            return Failed(f"cannot be composed: {type(error).__name__}")
        try:
            await self.link.ensure()
            await self.link.send(composed, self._composer.sender.addr_spec)
        except ServerUnavailable as error:
            return NotTried(str(error))
        except MailRefused as error:
            return Failed(str(error))
        except Deferred as error:
            return self._later(mail, str(error))
        except ConnectionLost as error:
            return await self._after_loss(mail, str(error))
        return Sent(composed.message_id, composed.recipient.addr_spec, composed.recipient.masked)

    async def _after_loss(self, mail: QueuedMail, reason: str) -> MailVerdict:
        # If the server accepts a new connection at once, this mail caused the loss; otherwise the server is down.
        down = await self.reach()
        return NotTried(down) if down is not None else self._later(mail, reason)

    def _later(self, mail: QueuedMail, reason: str) -> Later | Failed:
        pause = TIMETABLE.pause_after(mail.attempts, self._chance())
        if pause is None:
            return Failed(f"after {mail.attempts} tries: {reason}")
        return Later(self._clock() + pause, reason)


def _without_recipient(mail: QueuedMail, now: datetime) -> NoRecipient | Failed:
    pause = pause_for_recipient(now - mail.queued_at)
    if pause is None:
        hours = UNKNOWN_RECIPIENT_LIMIT // timedelta(hours=1)
        return Failed(f"the customer's address is still unknown after {hours} hours")
    return NoRecipient(now + pause, "the customer's address is not known yet")


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
