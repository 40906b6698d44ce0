"""The SMTP conversation about mails, over a connection that has passed greeting, TLS, EHLO and login.

    MAIL, RCPT, DATA ──▶ 250, 250, 354 ──▶ content ──▶ 250

The three commands are sent together if the server offers PIPELINING (RFC 2920), else one after the other. The content
follows only an accepted RCPT: a server that wants it all the same loses its connection. A reply that nothing waits for
makes the connection unusable, too: it could be taken for the reply to another mail. A reply that
asks for content where none is due is no refusal: the server may have accepted the mail, so its result is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from typing import NamedTuple

from schemas.errors import BillingError
from sinks.email.message import ComposedMail

_LONGEST_REPLY = 32_768
_LINE = re.compile(rb"([2-5]\d{2})([ -]?)(.*)")
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Reply(NamedTuple):
    """A reply of the server: its code, and the text of its lines."""

    code: int
    text: str

    @property
    def is_done(self) -> bool:
        """Whether the server has done what it was asked. A client goes by the first digit only (RFC 5321, 4.2)."""
        return self.code // 100 == 2

    @property
    def asks_for_content(self) -> bool:
        return self.code // 100 == 3


class NegativeReply(BillingError):
    """The server has refused a mail with this reply. `is_about_sender`: it was the reply to MAIL."""

    def __init__(self, reply: Reply, *, is_about_sender: bool = False) -> None:
        super().__init__(f"{reply.code} {reply.text}")
        self.reply = reply
        self.is_about_sender = is_about_sender


class Broken(BillingError):
    """The connection broke, the server did not reply in time, or it spoke no SMTP."""


class Conversation(asyncio.Protocol):
    """Sends one mail at a time. `extensions` are the keywords of the server's reply to EHLO, in lower case."""

    def __init__(self, transport: asyncio.Transport, extensions: frozenset[str], *, step_timeout_s: float) -> None:
        """Takes over the transport. `step_timeout_s` is the time for each reply."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._step_timeout_s = step_timeout_s
        self._is_pipelining = "pipelining" in extensions
        self._takes_size = "size" in extensions
        self.takes_utf8 = "smtputf8" in extensions
        self._buffer = b""
        self._lines: list[bytes] = []
        self._size = 0
        self._replies: deque[Reply] = deque()
        self._expected = 0
        self._waiter: asyncio.Future[None] | None = None
        self._trouble: str | None = None
        self._awaited = 1
        self._latest = self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """Whether a mail can be sent over the connection, as far as is known."""
        return self._trouble is None and not self._transport.is_closing()

    async def send(self, mail: ComposedMail, sender: str, *, within_s: float) -> None:
        """Return once the server has accepted the mail. Raises NegativeReply, and Broken if that is not known."""
        latest = self._loop.time() + within_s
        content = ready(mail.content)
        options = (f" SIZE={len(content)}" if self._takes_size else "") + (" SMTPUTF8" if mail.needs_utf8 else "")
        from_, to = f"MAIL FROM:<{sender}>{options}\r\n".encode(), f"RCPT TO:<{mail.recipient.addr_spec}>\r\n".encode()
        await self._offer((from_, to, b"DATA\r\n"), latest)
        reply = await self._ask(content + b".\r\n", latest)
        if reply.asks_for_content:
            raise self._out_of_step(reply)
        if not reply.is_done:
            raise await self._reset(NegativeReply(reply), latest)

    async def _offer(self, commands: tuple[bytes, bytes, bytes], latest: float) -> None:
        """Send MAIL, RCPT and DATA. Return once the server wants the content."""
        if self._is_pipelining:
            self._say(b"".join(commands), replies=len(commands))
        for at, command in enumerate(commands):
            if not self._is_pipelining:
                self._say(command, replies=1)
            unread = len(commands) - at if self._is_pipelining else 1
            reply = await self._reply(latest, of=unread)
            if reply.asks_for_content and at < len(commands) - 1:
                raise self._out_of_step(reply)
            if not (reply.asks_for_content if at == len(commands) - 1 else reply.is_done):
                refused = NegativeReply(reply, is_about_sender=at == 0)
                raise await self._drained(refused, unread - 1, latest)

    async def is_alive(self, within_s: float) -> bool:
        """Ask with NOOP whether the server still responds, and not with 421, by which it ends the connection."""
        try:
            reply = await self._ask(b"NOOP\r\n", self._loop.time() + within_s)
        except Broken:
            return False
        return reply.is_done

    async def quit(self, within_s: float) -> None:
        """Send QUIT, wait for the reply, and close the connection."""
        with contextlib.suppress(Broken):  # it is closed either way
            await self._ask(b"QUIT\r\n", self._loop.time() + within_s)
        self.close()

    def close(self) -> None:
        """Close the connection without QUIT."""
        self._fail("closed")
        self._transport.close()

    async def _ask(self, command: bytes, latest: float) -> Reply:
        self._say(command, replies=1)
        return await self._reply(latest)

    async def _drained(self, refused: NegativeReply, unread: int, latest: float) -> NegativeReply:
        """Read the replies to the commands that were sent together with the refused one, then reset."""
        try:
            for _ in range(unread):
                if (await self._reply(latest)).asks_for_content:
                    # It may also answer an empty content with 250, and deliver it.
                    self._fail("the server wants the content of a mail that it has refused")
                    self._transport.close()
                    return refused
        except Broken:
            return refused
        return await self._reset(refused, latest)

    async def _reset(self, refused: NegativeReply, latest: float) -> NegativeReply:
        """End the refused mail on the server. A server that does not reply loses its connection, not the refusal."""
        with contextlib.suppress(Broken):  # the connection is unusable then
            if not (reply := await self._ask(b"RSET\r\n", latest)).is_done:
                self._out_of_step(reply)
        return refused

    def _out_of_step(self, reply: Reply) -> Broken:
        """Close the connection: the reply is to another command, or the next one would be."""
        self._fail(f"a reply to another command: {reply.code} {reply.text}")
        self._transport.close()
        return Broken(self._trouble or "closed")

    def _say(self, data: bytes, *, replies: int) -> None:
        if not self.is_usable:
            raise Broken(self._trouble or "the connection is closed")
        self._expected += replies
        self._transport.write(data)

    async def _reply(self, latest: float, *, of: int = 1) -> Reply:
        """Return the next reply, once `of` replies have arrived or the connection has broken."""
        if len(self._replies) < of and self._trouble is None:
            self._awaited, self._latest = of, latest
            self._extend()
            if self._timer is None or self._timer.when() > self._deadline:
                self._set_timer()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._replies:
            raise Broken(self._trouble or "closed")
        return self._replies.popleft()

    def _extend(self) -> None:
        """Give the server its time for the next reply."""
        self._deadline = min(self._latest, self._loop.time() + self._step_timeout_s)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_time)

    def _check_time(self) -> None:
        """One timer serves all replies: it is set again where the reply that it was set for has arrived."""
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._fail(f"no reply within {self._step_timeout_s:g} s")
            self._transport.close()

    # Called by the transport.

    def data_received(self, data: bytes) -> None:
        if self._trouble is not None:
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if (trouble := self._line(line.rstrip(b"\r"))) is not None:
                self._fail(trouble)
                return
        if len(self._buffer) + self._size > _LONGEST_REPLY:
            self._fail("a reply that does not end")
        elif len(self._replies) >= self._awaited:
            self._wake()

    def _line(self, line: bytes) -> str | None:
        """Read one line of a reply. Return what is wrong with it, or None."""
        found = _LINE.fullmatch(line)
        if found is None:
            return "a reply that is no SMTP"
        self._lines.append(found[3].strip())
        self._size += len(line) + 1  # also a line without a text
        if found[2] == b"-":
            return None
        text = b"\n".join(self._lines).decode("utf-8", "replace")
        self._lines, self._size = [], 0
        if self._expected == 0:
            return f"{found[1].decode()} {text}, which nothing asked for"
        self._expected -= 1
        self._extend()
        self._replies.append(Reply(int(found[1]), text))
        return None

    def eof_received(self) -> None:
        self._fail("the server has closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection is lost: {error}" if error else "the server has closed the connection")
        if self._timer is not None:
            self._timer.cancel()

    def _fail(self, trouble: str) -> None:
        if self._trouble is None:
            self._trouble = trouble
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def ready(content: bytes) -> bytes:
    """Return the content as it is sent: lines end with CRLF and nothing else does, and leading dots are doubled."""
    if not content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n"):
        content = _LINE_END.sub(b"\r\n", content)
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    content = content.replace(b"\r\n.", b"\r\n..")
    return b"." + content if content.startswith(b".") else content
