"""The SMTP server of the tests. It runs in the test's event loop, stores mails, and can be set to fail."""

from __future__ import annotations

import asyncio
from collections import deque
from email.message import EmailMessage
from enum import Enum, auto
from types import TracebackType
from typing import Self

from aiosmtpd.smtp import SMTP, Envelope, Session

from local.stack.mailbox import MAX_MESSAGE_BYTES, content_of, parse


class MailboxFault(Enum):
    """What goes wrong, once per `fail_next`."""

    REFUSE_CONNECTION = auto()
    """Sends 421 instead of a greeting."""
    REJECT_RECIPIENT = auto()
    """Answers RCPT with 550, a permanent error."""
    TRY_LATER = auto()
    """Answers DATA with 451, a temporary error."""
    HANG = auto()
    """Never answers DATA."""
    DIE_AFTER_DATA = auto()
    """Stores the message and cuts the connection before the response."""


class FaultyMailbox:
    """The server: `async with FaultyMailbox() as mailbox:`. It uses a free loopback port and stores mails in memory."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        """The recipients of the SMTP envelope, one list per message."""
        self.met: list[MailboxFault] = []
        """Faults that have occurred, in order."""
        self.rejected_recipients: set[str] = set()
        """Addresses that are always refused with 550."""
        self.rcpt_answers: dict[str, str] = {}
        """Answers to RCPT by address; `{}` is replaced by the address."""
        self.rcpt_answer_to_all: str | None = None
        self.helo_names: list[str] = []
        """The names that clients gave in EHLO."""
        self.port = 0
        self._faults: deque[MailboxFault] = deque()
        self._arrived = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.BaseTransport] = set()

    @property
    def url(self) -> str:
        """smtp://127.0.0.1:port."""
        return f"smtp://127.0.0.1:{self.port}"

    def fail_next(self, fault: MailboxFault, times: int = 1) -> None:
        """Let `fault` occur for the next `times` clients that reach its step. Faults occur in call order."""
        self._faults.extend([fault] * times)

    async def wait_for(self, count: int, timeout: float = 30.0) -> list[EmailMessage]:
        """Wait until there are `count` messages, and return all. Raises TimeoutError."""
        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(lambda: len(self.messages) >= count)
        return self.messages

    async def start(self) -> None:
        """Start to listen, on the previous port after a restart."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listener and cut every connection, as in a server failure."""
        if self._server is not None:
            self._server.close()
            for transport in list(self._open):
                if isinstance(transport, asyncio.Transport):
                    transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _session(self) -> asyncio.BaseProtocol:
        if self._meets(MailboxFault.REFUSE_CONNECTION):
            return _Refusal()
        return _TrackedSMTP(_Handler(self), self._open)

    def _meets(self, *faults: MailboxFault) -> MailboxFault | None:
        if self._faults and self._faults[0] in faults:
            self.met.append(self._faults[0])
            return self._faults.popleft()
        return None

    async def _keep(self, envelope: Envelope) -> None:
        async with self._arrived:
            self.messages.append(parse(content_of(envelope)))
            self.recipients.append(list(envelope.rcpt_tos))
            self._arrived.notify_all()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(b"421 4.3.2 service not available\r\n")
            transport.close()


class _TrackedSMTP(SMTP):
    def __init__(self, handler: _Handler, open_transports: set[asyncio.BaseTransport]) -> None:
        super().__init__(
            handler,
            hostname="mailbox.localhost",
            data_size_limit=MAX_MESSAGE_BYTES,
            loop=asyncio.get_running_loop(),
        )
        self._open = open_transports
        self._mine: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._mine = transport
        self._open.add(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._mine is not None:
            self._open.discard(self._mine)
        super().connection_lost(error)


class _Handler:
    """The handler of aiosmtpd. aiosmtpd defines the names of the hooks."""

    def __init__(self, mailbox: FaultyMailbox) -> None:
        self._mailbox = mailbox

    async def handle_EHLO(
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self._mailbox.helo_names.append(hostname)
        return responses

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self._mailbox.rejected_recipients or self._mailbox._meets(MailboxFault.REJECT_RECIPIENT):
            return "550 5.1.1 no such mailbox"
        answer = self._mailbox.rcpt_answers.get(address, self._mailbox.rcpt_answer_to_all)
        if answer is not None:
            return answer.format(address)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        match self._mailbox._meets(MailboxFault.TRY_LATER, MailboxFault.HANG, MailboxFault.DIE_AFTER_DATA):
            case MailboxFault.TRY_LATER:
                return "451 4.3.0 try again later"
            case MailboxFault.HANG:
                await asyncio.Event().wait()  # ends when the connection does: aiosmtpd cancels it
            case MailboxFault.DIE_AFTER_DATA:
                await self._mailbox._keep(envelope)
                if isinstance(server.transport, asyncio.Transport):
                    server.transport.abort()
                await asyncio.Event().wait()
            case _:
                await self._mailbox._keep(envelope)
        return "250 2.0.0 kept"
