"""The SMTP conversation: each mail gets its own replies, whatever the server says and in which pieces."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.email.addresses import read_address
from sinks.email.conversation import Broken, Conversation, ready
from sinks.email.delivery import MailSender
from sinks.email.message import ComposedMail, Composer
from sinks.email.smtp import (
    ConnectionLost,
    Deferred,
    MailNotTaken,
    MailRefused,
    RefusedForAll,
    ServerUnavailable,
    SmtpLink,
    parse_smtp_url,
)
from sinks.outbox.verdicts import NotTried
from tests.kits.mailkit import CONFIG, queued_sample
from tests.waiting import eventually, turn_of_the_loop

SENDER = "billing@example.com"
OK, GO_ON = "250 2.0.0 ok", "354 go on"
Script = Callable[[str], str | None]
"""Returns the answer to a command, or None to close the connection."""


def mail(name: str, content: bytes = b"Subject: x\r\n\r\nhello\r\n") -> ComposedMail:
    return ComposedMail(content, f"<{name}@example.com>", read_address(f"{name}@example.com"))


class Server:
    """A server on loopback that follows a script and notes what it got. Content is answered as the command `.`."""

    def __init__(self, script: Script, extensions: Sequence[str], pieces: int | None) -> None:
        self._script = script
        self._extensions = extensions
        self._pieces = pieces
        self.commands: list[str] = []
        self.contents: list[bytes] = []
        self.packets: list[bytes] = []
        self.connections = 0
        self.closed = 0
        self.greets_at = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._converse(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.closed += 1

    async def _may_greet(self) -> bool:
        return time.monotonic() >= self.greets_at

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await eventually(self._may_greet, "the time of the greeting")
        await self._say(writer, "220 scripted")
        buffer, in_data = b"", False
        while data := await reader.read(65_536):
            self.packets.append(data)
            buffer += data
            while (ending := b"\r\n.\r\n" if in_data else b"\r\n") in buffer:
                found, _, buffer = buffer.partition(ending)
                command = "." if in_data else found.decode()
                if in_data:
                    self.contents.append(found + b"\r\n")
                    in_data = False
                self.commands.append(command)
                answer = self._answer(command)
                if answer is None:
                    return
                in_data = command == "DATA" and answer.startswith("3")
                await self._say(writer, answer)

    def _answer(self, command: str) -> str | None:
        if command.startswith("EHLO"):
            lines = ["scripted", *self._extensions]
            return "\r\n".join(f"250{'-' if at < len(lines) - 1 else ' '}{line}" for at, line in enumerate(lines))
        if (own := self._script(command)) is None or own:
            return own
        return GO_ON if command == "DATA" else OK

    async def _say(self, writer: asyncio.StreamWriter, answer: str) -> None:
        line = answer.encode() + b"\r\n"
        size = self._pieces or len(line)
        for at in range(0, len(line), size):
            writer.write(line[at : at + size])
            await writer.drain()
            if self._pieces:
                await turn_of_the_loop()


@asynccontextmanager
async def opened(
    script: Script = lambda _: "",
    *,
    extensions: Sequence[str] = ("PIPELINING", "SIZE 99999", "SMTPUTF8"),
    pieces: int | None = None,
) -> AsyncIterator[tuple[Server, SmtpLink]]:
    server = Server(script, extensions, pieces)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    link = SmtpLink(parse_smtp_url(f"smtp://127.0.0.1:{port}"), helo_name="t.example.com")
    try:
        await link.ensure()
        yield server, link
    finally:
        await link.close()
        listener.close()
        await eventually(lambda: server.closed == server.connections)


@pytest.mark.parametrize("extensions", [("PIPELINING", "SIZE 99999"), ("SIZE 99999",), ()])
@pytest.mark.parametrize("pieces", [None, 1, 7])
async def test_D8_mails_leave_one_after_the_other(extensions: Sequence[str], pieces: int | None) -> None:
    """With or without PIPELINING, and if the server's replies arrive in pieces."""
    async with opened(extensions=extensions, pieces=pieces) as (server, link):
        for name in "abc":
            await link.send(mail(name), SENDER)
    size = f" SIZE={len(mail('a').content)}" if "SIZE 99999" in extensions else ""
    of_one = [f"MAIL FROM:<{SENDER}>{size}", "RCPT TO:<{}@example.com>", "DATA", "."]
    assert server.commands[1:] == [line.format(name) for name in "abc" for line in of_one] + ["QUIT"]
    assert server.contents == [mail("a").content] * 3
    envelopes = [packet for packet in server.packets if all(word in packet for word in (b"MAIL", b"RCPT", b"DATA"))]
    assert len(envelopes) == (3 if "PIPELINING" in extensions else 0)


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()])
@pytest.mark.parametrize(
    ("command", "answer", "error"),
    [
        ("MAIL", "550 5.7.1 not you", RefusedForAll),
        ("MAIL", "451 4.3.0 later", Deferred),
        ("RCPT", "550 5.1.1 no such mailbox", MailRefused),
        ("RCPT", "450-4.2.1 busy\r\n450 4.2.1 later", Deferred),
        ("DATA", "554 5.6.0 no", MailRefused),
        (".", "554 5.6.0 no", MailRefused),
        (".", "452 4.3.1 full", Deferred),
        (".", "450 greylisted", Deferred),
        (".", "550 rejected", RefusedForAll),
        (".", "552 too large", MailRefused),
        ("DATA", "450-4.2.1 later\r\n450 4.2.1 sp\u00e4ter", Deferred),
    ],
)
async def test_D8_a_refusal_is_that_mails_trouble(
    extensions: Sequence[str], command: str, answer: str, error: type[MailNotTaken]
) -> None:
    """Whatever is refused, no content follows, and the next mail leaves over the same connection."""
    current = ""

    def script(line: str) -> str:
        nonlocal current
        if found := re.match(r"RCPT TO:<(\w+)@", line):
            current = found[1]
        is_first = not server.commands.count(f"{line}") > 1 if line.startswith("MAIL") else current == "bad"
        if server.commands.count("RSET") == 0:
            if line.startswith("RCPT") and command == "MAIL":
                return "503 5.5.1 MAIL first"
            if line == "DATA" and command in ("MAIL", "RCPT"):
                return "554 5.5.1 no valid recipients"
        return answer if is_first and line.startswith(command) else ""

    async with opened(script, extensions=extensions) as (server, link):
        with pytest.raises(error) as caught:
            await link.send(mail("bad"), SENDER)
        await link.ensure()
        await link.send(mail("good"), SENDER)
    assert str(caught.value) == " ".join(answer.split("\r\n")[0].split("-")[0].split()[:1]) + " " + " ".join(
        line[4:] for line in answer.split("\r\n")
    )
    assert server.connections == 1
    assert server.commands.count("RSET") == 1
    assert server.contents.count(mail("good").content) == 1 + (command == ".")
    if command in ("MAIL", "RCPT") and "PIPELINING" not in extensions:
        assert server.commands.count("DATA") == 1


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()])
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        *(("MAIL", "251 fine"), ("MAIL", "200"), ("RCPT", "251 forwarded"), ("RCPT", "252 not verified")),
        *(("DATA", "350 more"), (".", "200 ok"), (".", "251 forwarded"), (".", "250-2.0.0 ok\r\n299 queued as 7")),
    ],
)
async def test_D8_the_first_digit_of_a_reply_decides(extensions: Sequence[str], command: str, answer: str) -> None:
    """RFC 5321, 4.2. A mail that was accepted with another code than 250 would be sent again, eight times."""
    async with opened(lambda line: answer if line.startswith(command) else "", extensions=extensions) as (server, link):
        for name in "ab":
            await link.send(mail(name), SENDER)
            await link.ensure()
    assert server.contents == [mail("a").content] * 2
    assert (server.connections, server.commands.count("RSET")) == (1, 0)


@pytest.mark.parametrize("command", ["MAIL", "RCPT"])
async def test_D8_a_refused_mail_has_no_content_although_the_server_wants_one(command: str) -> None:
    """RFC 2920 allows a server to answer DATA with 354 even if it has accepted no recipient."""
    async with opened(lambda line: "550 5.7.1 no" if line.startswith(command) and server.connections == 1 else "") as (
        server,
        link,
    ):
        with pytest.raises(MailNotTaken, match=r"550 5\.7\.1 no"):
            await link.send(mail("bad"), SENDER)
        await link.ensure()
        await link.send(mail("good"), SENDER)
    assert server.connections == 2
    assert server.contents == [mail("good").content]


@pytest.mark.parametrize("seconds", [29, 31])
async def test_D8_each_reply_has_its_own_time(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is slow with each command is not silent, also if the commands came together."""
    loop, passed = asyncio.get_running_loop(), 0.0
    began = loop.time()
    monkeypatch.setattr(loop, "time", lambda: began + passed)
    transport = cast("asyncio.Transport", Mock(is_closing=lambda: False))
    conversation = Conversation(transport, frozenset({"pipelining"}), step_timeout_s=30)
    sending = asyncio.create_task(conversation.send(mail("a"), SENDER, within_s=120))
    for answer in (OK, OK, GO_ON, OK):
        await turn_of_the_loop()
        passed += seconds
        for _ in range(3):  # the timer, then the task that it wakes
            await turn_of_the_loop()
        conversation.data_received(f"{answer}\r\n".encode())
    if seconds < 30:
        await sending
    else:
        with pytest.raises(Broken, match="no reply within 30 s"):
            await sending


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "."])
async def test_D8_a_broken_connection_is_known_and_replaced(command: str) -> None:
    async with opened(lambda line: None if line.startswith(command) and server.connections == 1 else "") as (
        server,
        link,
    ):
        with pytest.raises(ConnectionLost):
            await link.send(mail("a"), SENDER)
        await link.ensure()
        await link.send(mail("b"), SENDER)
    assert server.connections == 2


async def test_D8_an_answer_that_ends_the_connection_is_the_answer() -> None:
    """Also if the server closes before it has answered everything that was sent together with the refused command."""

    def script(line: str) -> str | None:
        if line.startswith("MAIL"):
            return "421 4.7.0 too many mails"
        return None if line.startswith("RCPT") else ""

    async with opened(script) as (_, link):
        with pytest.raises(RefusedForAll, match=r"421 4\.7\.0 too many mails"):
            await link.send(mail("a"), SENDER)


@pytest.mark.parametrize("extra", ["250 2.0.0 once more", "421 4.4.2 idle for too long"])
async def test_D8_a_reply_that_nothing_asked_for_is_never_taken_for_another_mails(extra: str) -> None:
    """The connection is replaced before the next mail."""
    async with opened(lambda line: f"{OK}\r\n{extra}" if line == "." and server.connections == 1 else "") as (
        server,
        link,
    ):
        await link.send(mail("a"), SENDER)
        await link.ensure()
        await link.send(mail("b"), SENDER)
    assert server.connections == 2
    assert server.commands.count(".") == 2


async def test_D8_what_is_no_smtp_and_what_does_not_end_breaks_the_connection() -> None:
    for answer in ("nonsense", "250", "250-" + "x" * 40_000, "\r\n".join(["250-x"] * 40_000)):
        async with opened(lambda line, answer=answer: answer if line == "DATA" else "") as (_, link):  # type: ignore[misc]  # the default binds the value
            if answer == "250":
                with pytest.raises(Deferred):
                    await link.send(mail("a"), SENDER)
            else:
                with pytest.raises(ConnectionLost):
                    await link.send(mail("a"), SENDER)


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"220 " + b"x" * 10_000_000 + b"\r\n", "no SMTP: Response too long"),
        (b"220-x\r\n" * 500_000 + b"220 ok\r\n", "no SMTP: Response too long"),
        (b"\xff\xfe\r\n", "no SMTP: Malformed"),
        (b"SSH-2.0-OpenSSH_9\r\n", "no SMTP: Malformed"),
        (b"554 5.7.1 \xe9\xff no\r\n", "554 5.7.1"),
        (b"", "Unexpected EOF"),
    ],
)
async def test_D8_a_greeting_that_is_no_welcome_says_what_is_wrong(greeting: bytes, reason: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        with contextlib.suppress(ConnectionError):  # the client has left
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    link = SmtpLink(
        parse_smtp_url(f"smtp://127.0.0.1:{listener.sockets[0].getsockname()[1]}"), helo_name="t.example.com"
    )
    with pytest.raises(ServerUnavailable, match=reason) as caught:
        await link.ensure()
    assert len(str(caught.value)) <= 300
    listener.close()


async def test_D8_a_server_that_is_silent_loses_its_connection() -> None:
    hanging = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 silent\r\n")
        await reader.readline()
        writer.write(b"250-silent\r\n250 PIPELINING\r\n")
        await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        hanging.set()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    link = SmtpLink(parse_smtp_url(f"smtp://127.0.0.1:{port}"), helo_name="t.example.com", step_timeout_s=0.2)
    await link.ensure()
    with pytest.raises(ConnectionLost, match=r"no reply within 0\.2 s"):
        await link.send(mail("a"), SENDER)
    listener.close()
    await asyncio.wait_for(hanging.wait(), 60)


async def test_D8_an_address_that_the_server_cannot_take_is_refused_before_it_is_sent() -> None:
    async with opened(extensions=("PIPELINING",)) as (server, link):
        with pytest.raises(MailRefused, match="SMTPUTF8"):
            await link.send(ComposedMail(b"x\r\n", "<a@b>", read_address("用户@example.com")), SENDER)
        assert len(server.commands) == 1
    async with opened(extensions=("SMTPUTF8",)) as (server, link):
        await link.send(ComposedMail(b"x\r\n", "<a@b>", read_address("用户@example.com")), SENDER)
        assert server.commands[1] == f"MAIL FROM:<{SENDER}> SMTPUTF8"


@given(st.lists(st.sampled_from([b"a", b".", b"\r\n", b"\n", b"\r", b"\r\n.\r\n", b"\n.\n"])).map(b"".join))
def test_no_content_ends_early_or_is_changed(content: bytes) -> None:
    """A line with a dot inside a content would end it, and the rest would be commands."""
    sent = ready(content)
    lines = sent.removesuffix(b"\r\n").split(b"\r\n")
    assert b"." not in lines
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", sent)
    undoubled = b"\r\n".join(line.removeprefix(b".") if line.startswith(b".") else line for line in lines) + b"\r\n"
    expected = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    assert undoubled == (expected if expected.endswith(b"\r\n") else expected + b"\r\n")


async def test_D8_an_idle_connection_that_the_server_ends_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server answers NOOP with 421 before it closes an idle connection: the next mail needs a new one."""
    monkeypatch.setattr("sinks.email.smtp.CHECK_AFTER_IDLE_S", 0.0)
    ends = iter(["421 4.4.2 idle for too long"])

    def script(command: str) -> str | None:
        return next(ends, "") if command == "NOOP" else ""

    async with opened(script) as (server, link):
        await link.ensure()
        await link.send(mail("a"), SENDER)
        assert server.connections == 2
        await link.ensure()
        assert server.connections == 2, "250 keeps it"


async def test_D8_the_claims_end_is_checked_after_the_connection() -> None:
    """Connecting can take as long as is left: the claim must not expire while the mail is being sent."""
    async with opened(pieces=None) as (server, link):
        sender = MailSender(Composer(CONFIG), link)
        await link.close()
        server.greets_at = time.monotonic() + 0.5
        queued = replace(queued_sample(), deadline=server.greets_at + link.letter_timeout_s - 0.1)
        assert await sender.deliver(queued) == NotTried()
        assert not [command for command in server.commands if command.startswith("MAIL")]
