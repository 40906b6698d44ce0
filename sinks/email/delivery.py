"""One claimed mail → a verdict: what came of handing it to the mail server, as a value that the dispatcher acts on."""

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
"""The time in UTC."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The server took it."""

    message_id: str
    recipient: str
    masked: str


@dataclass(frozen=True, slots=True)
class Later:
    """This mail's own trouble; the try counts."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class NoRecipient:
    """Its customer's address is not known yet; no try."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """For good."""

    reason: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """Kept back on purpose: failed in the table, and nobody's alarm."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotTried:
    """The mail server is down, or there is no time left: no try. `server` names the trouble."""

    server: str | None = None


MailVerdict = Sent | Later | NoRecipient | Failed | Withheld | NotTried


class MailSender:
    """Composes and sends, one mail at a time, over a link that it keeps open."""

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
        """Why the mail server cannot be reached, or None when it answers."""
        try:
            await self.link.ensure()
        except ServerUnavailable as error:
            return str(error)
        return None

    async def deliver(self, mail: QueuedMail) -> MailVerdict:
        """Never raises for what can be wrong with a mail or the mail server."""
        now = self._clock()
        if not mail.livemode and not self._send_test_mode:
            return Withheld("test mode: mail.send_test_mode is off")
        if mail.is_stopped and mail.template in OPTIONAL_MAILS:
            return Withheld("the customer has unsubscribed from these mails")
        if mail.attempts > TRIES:
            return Failed(f"{TRIES} tries ended without an answer: each time the dispatcher died")
        if now + timedelta(seconds=self.link.letter_timeout_s) > mail.claimed_until:
            return NotTried()  # our claim may run out amid the conversation
        try:
            letter = self._composer.compose(mail, now)
        except RecipientUnknown:
            return _without_recipient(mail, now)
        except UnsendableMail as error:
            return Failed(str(error))
        except Exception as error:
            # A bug that this mail's data brings out: it fails, where an operator sees it, and the others go on.
            log.exception("a mail cannot be composed", action="email.compose_failed", key=mail.key)
            return Failed(f"cannot be composed: {type(error).__name__}")
        try:
            await self.link.ensure()
            await self.link.send(letter, self._composer.sender.addr_spec)
        except ServerUnavailable as error:
            return NotTried(str(error))
        except MailRefused as error:
            return Failed(str(error))
        except Deferred as error:
            return self._later(mail, str(error))
        except ConnectionLost as error:
            return await self._after_loss(mail, str(error))
        return Sent(letter.message_id, letter.recipient.addr_spec, letter.recipient.masked)

    async def _after_loss(self, mail: QueuedMail, reason: str) -> MailVerdict:
        # A server that is back at once broke off over this mail; one that is not is simply down.
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


UNKNOWN_RECIPIENT_LIMIT = timedelta(hours=72)


UNKNOWN_RECIPIENT_ASKED_AFTER = timedelta(minutes=1)
"""By then the customer's own event has come if it ever does; who became one before we listened has none."""


UNKNOWN_RECIPIENT_FIRST = timedelta(seconds=30)


UNKNOWN_RECIPIENT_LONGEST = timedelta(hours=6)


def pause_for_recipient(age: timedelta) -> timedelta | None:
    """How long a mail without a known recipient, queued `age` ago, waits; None once the limit is reached.

    A quarter of its age: the customer's own event usually follows within seconds, or else much later.
    """
    if age >= UNKNOWN_RECIPIENT_LIMIT:
        return None
    pause = min(max(age / 4, UNKNOWN_RECIPIENT_FIRST), UNKNOWN_RECIPIENT_LONGEST)
    return min(pause, UNKNOWN_RECIPIENT_LIMIT - age)
