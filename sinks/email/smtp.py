"""Sends a mail over a persistent SMTP connection and classifies the server's replies.

MailNotTaken
├── ServerUnavailable   no mail can be sent now: server unreachable, refuses connections or credentials
├── ConnectionLost      the connection broke or timed out; the server may have accepted the mail
├── Deferred            4xx for this mail: try again later
├── MailRefused         5xx about this mail or its recipient: do not try again
└── RefusedForAll       an answer that may be about us: the same for all mails, or about this mail only

Only a failing greeting, EHLO or login means that no mail can be sent. An answer to one mail counts for that mail, even
if it ends the connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import unquote

import aiosmtplib

from schemas.database_url import is_local
from schemas.errors import BillingError
from schemas.urls import parts_of
from sinks.email.conversation import Broken, Conversation, NegativeReply, Reply
from sinks.email.message import ComposedMail

CONNECT_TIMEOUT_S = 10.0
STEP_TIMEOUT_S = 30.0
"""For each reply of the server. A shorter limit means more duplicates from servers that are slow to accept the data."""
LETTER_TIMEOUT_S = 120.0
"""For sending one mail, all SMTP steps together."""
CHECK_AFTER_IDLE_S = 5.0
"""A connection that has been idle this long is checked with NOOP before its next mail."""

_ENDS_CONNECTION = frozenset((421, 530, 534, 535, 538))
"""Reply codes for a server that is shutting down (RFC 5321) or for missing or wrong authentication (RFC 4954)."""
_MAY_PASS = _ENDS_CONNECTION | {503, 504}
"""Reply codes about how we speak to the server. They end when somebody changes a configuration: try again later."""
_ABOUT_THE_MAIL = frozenset((551, 552, 553))
_ENHANCED = re.compile(r"\A5\.(\d{1,3})\.(\d{1,3})\b")
_SENDER_SUBJECTS = frozenset({("1", "7"), ("1", "8")})
"""Enhanced status codes about the sender's address (RFC 3463), which is the same in all mails."""
_LONGEST_REPLY = 300

Tls = Literal["none", "starttls", "implicit"]
_SCHEMES: dict[str, tuple[Tls, int]] = {
    "smtp": ("none", 25),
    "smtp+starttls": ("starttls", 587),
    "smtps": ("implicit", 465),
}


class InvalidSmtpUrl(BillingError):
    """BILLING_SMTP_URL is invalid. The message does not contain the URL."""


class MailNotTaken(BillingError):
    """The server did not take the mail, or it is not known whether it did."""


class ServerUnavailable(MailNotTaken):
    """No mail can be sent now."""


class ConnectionLost(MailNotTaken):
    """The connection broke or timed out while a mail was being sent."""


class Deferred(MailNotTaken):
    """The server asks for another try later."""


class MailRefused(MailNotTaken):
    """The server will never take this mail."""


class RefusedForAll(MailNotTaken):
    """The server refuses this mail, and perhaps all mails. `may_pass`: this mail can be accepted later."""

    def __init__(self, reason: str, *, may_pass: bool) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Address, encryption and credentials of the mail server."""

    host: str
    port: int
    tls: Tls
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_smtp_url(url: str, *, allow_plaintext: bool = False) -> SmtpServer:
    """Parse `smtp://`, `smtp+starttls://` or `smtps://`, with optional `user:password@`. Raises InvalidSmtpUrl.

    Without encryption only a server on this machine is accepted, since mails contain addresses, receipts and signed
    links. `allow_plaintext` also accepts others, but never with a password.
    """
    parts = parts_of(url)
    if parts.scheme not in _SCHEMES:
        raise InvalidSmtpUrl(f"the scheme must be one of {', '.join(_SCHEMES)}")
    try:
        port = parts.port
    except ValueError:
        raise InvalidSmtpUrl("the port is not a number up to 65535") from None
    if not parts.hostname:
        raise InvalidSmtpUrl("the host is missing")
    tls, default_port = _SCHEMES[parts.scheme]
    if (parts.username is None) != (parts.password is None):
        raise InvalidSmtpUrl("it must contain both user and password, or neither")
    if tls == "none" and not is_local(parts.hostname):
        if parts.username is not None:
            raise InvalidSmtpUrl("smtp:// would send the password unencrypted: use smtp+starttls:// or smtps://")
        if not allow_plaintext:
            raise InvalidSmtpUrl(
                "smtp:// would send mails unencrypted to a remote server: use smtp+starttls:// or smtps://, or set "
                "BILLING_SMTP_ALLOW_PLAINTEXT=true"
            )
    return SmtpServer(
        host=parts.hostname,
        port=port or default_port,
        tls=tls,
        username=unquote(parts.username) if parts.username is not None else None,
        password=unquote(parts.password) if parts.password is not None else None,
    )


def helo_name(setting: str | None, sender_domain: str) -> str:
    """Return the name given in EHLO: the setting, else this host's full name, else the domain of the sender.

    A name without a dot, as containers have, is refused by many servers.
    """
    if setting:
        return setting
    name = socket.getfqdn()
    is_public = "." in name.strip(".") and not name.endswith((".localdomain", ".arpa")) and not _is_address(name)
    return name if is_public else sender_domain


class SmtpLink:
    """One SMTP connection, opened on first use, kept open, and reopened after errors. Sends one mail at a time."""

    def __init__(
        self,
        server: SmtpServer,
        *,
        helo_name: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        step_timeout_s: float = STEP_TIMEOUT_S,
        letter_timeout_s: float = LETTER_TIMEOUT_S,
    ) -> None:
        """`helo_name` is the name given in EHLO; the default is this host's name."""
        self._server = server
        self._helo_name = helo_name or socket.getfqdn()
        self._connect_timeout_s = connect_timeout_s
        self._step_timeout_s = step_timeout_s
        self._letter_timeout_s = letter_timeout_s
        self._client: aiosmtplib.SMTP | None = None
        self._conversation: Conversation | None = None
        self._used_at = 0.0

    @property
    def address(self) -> str:
        """The server's host and port."""
        return f"{self._server.host}:{self._server.port}"

    @property
    def letter_timeout_s(self) -> float:
        return self._letter_timeout_s

    @property
    def idle_s(self) -> float:
        """Seconds since the open connection was last used; 0 without one."""
        return time.monotonic() - self._used_at if self._conversation is not None else 0.0

    async def ensure(self) -> None:
        """Make sure that a responding connection is open. Raises ServerUnavailable."""
        conversation = self._conversation
        if conversation is not None and conversation.is_usable:
            if self.idle_s < CHECK_AFTER_IDLE_S:
                return
            if await conversation.is_alive(self._connect_timeout_s):
                self._used_at = time.monotonic()
                return
        self.drop()
        await self._connect()

    async def send(self, mail: ComposedMail, sender: str) -> None:
        """Return once the server has accepted the mail. Raises a MailNotTaken; see the tree above."""
        conversation = self._conversation
        if conversation is None:
            raise ConnectionLost("not connected")
        if mail.needs_utf8 and not conversation.takes_utf8:
            raise MailRefused("the mail server does not accept non-ASCII addresses (SMTPUTF8)")
        try:
            await conversation.send(mail, sender, within_s=self._letter_timeout_s)
        except NegativeReply as error:
            # The recipient is not at fault for the answer to MAIL. An operator can allow this sender on the server.
            raise self._answer(error.reply, is_about_sender=error.is_about_sender) from None
        except Broken as error:
            self.drop()
            raise ConnectionLost(str(error)[:_LONGEST_REPLY]) from None
        except asyncio.CancelledError:
            self.drop()  # the SMTP dialog is incomplete, so the connection cannot be reused
            raise
        self._used_at = time.monotonic()

    async def close(self) -> None:
        """Send QUIT, wait for the reply for 2 seconds at most, and close the connection."""
        conversation, self._conversation = self._conversation, None
        if conversation is not None and conversation.is_usable:
            await conversation.quit(2.0)
        self.drop()

    def drop(self) -> None:
        """Close the connection without QUIT."""
        conversation, self._conversation = self._conversation, None
        client, self._client = self._client, None
        if conversation is not None:
            conversation.close()
        if client is not None:
            client.close()

    async def _connect(self) -> None:
        client = aiosmtplib.SMTP(
            hostname=self._server.host,
            port=self._server.port,
            username=self._server.username,
            password=self._server.password,
            use_tls=self._server.tls == "implicit",
            start_tls=self._server.tls == "starttls",
            local_hostname=self._helo_name,
            timeout=self._step_timeout_s,
        )
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await client.connect(timeout=self._connect_timeout_s)
                await client.ehlo(timeout=self._connect_timeout_s)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            client.close()
            raise ServerUnavailable(_describe(error)) from None
        if client.transport is None:
            raise ServerUnavailable("the server has closed the connection after EHLO")
        extensions = frozenset(client.esmtp_extensions)
        transport = cast("asyncio.Transport", client.transport)
        self._conversation = Conversation(transport, extensions, step_timeout_s=self._step_timeout_s)
        self._client = client
        self._used_at = time.monotonic()

    def _answer(self, reply: Reply, *, is_about_sender: bool = False) -> MailNotTaken:
        if reply.code in _ENDS_CONNECTION:
            self.drop()
        self._used_at = time.monotonic()
        reason = _shown(reply.code, reply.text)
        if reply.code not in _ENDS_CONNECTION and not 500 <= reply.code < 600:
            return Deferred(reason)
        if not is_about_sender and _is_about_the_mail(reply):
            return MailRefused(reason)
        may_pass = is_about_sender or reply.code in _MAY_PASS or "relay" in reply.text.lower()
        return RefusedForAll(reason, may_pass=may_pass)


def _is_about_the_mail(reply: Reply) -> bool:
    """Whether a 5xx names the recipient, their mailbox or the content as the cause (RFC 3463)."""
    enhanced = _ENHANCED.match(reply.text)
    if enhanced is None:
        return reply.code in _ABOUT_THE_MAIL
    subject, detail = enhanced.groups()
    return (subject in "126" and (subject, detail) not in _SENDER_SUBJECTS) or (subject, detail) in (
        ("3", "4"),
        ("4", "1"),
    )


def _shown(code: int, message: str) -> str:
    text = " ".join(message.encode("utf-8", "replace").decode().replace("\0", "").split())
    return f"{code} {text}"[:_LONGEST_REPLY]


def _describe(error: BaseException) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        # -1 is aiosmtplib's code for a reply that is no SMTP or does not end.
        return _shown(error.code, error.message) if error.code > 0 else f"no SMTP: {error.message}"[:_LONGEST_REPLY]
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:_LONGEST_REPLY]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
