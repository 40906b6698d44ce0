"""Replies of a mail server that belong to no command, or have no end: the connection is never used again."""

from __future__ import annotations

import asyncio
from typing import cast
from unittest.mock import Mock

import pytest

from sinks.email.addresses import read_address
from sinks.email.conversation import Broken, Conversation, NegativeReply
from sinks.email.message import ComposedMail

MAIL = ComposedMail(b"Subject: x\r\n\r\nhello\r\n", "<a@example.com>", read_address("a@example.com"))


class Written:
    """A conversation over a transport that keeps what is written to it."""

    def __init__(self, *extensions: str) -> None:
        self.lines: list[bytes] = []
        self.is_closed = False
        transport = Mock(is_closing=lambda: self.is_closed, write=self.lines.append, close=self._close)
        self.conversation = Conversation(cast("asyncio.Transport", transport), frozenset(extensions), step_timeout_s=30)

    def _close(self) -> None:
        self.is_closed = True

    async def send(self, *replies: bytes) -> None:
        """Sends a mail, to whose commands the server replies with these, one for each pause of the client."""
        sending = asyncio.create_task(self.conversation.send(MAIL, "billing@example.com", within_s=120))
        for reply in replies:
            for _ in range(3):
                await asyncio.sleep(0)
            self.conversation.data_received(reply)
        await sending


@pytest.mark.parametrize("extensions", [("pipelining",), ()])
@pytest.mark.parametrize(
    "replies",
    [
        (b"250 ok", b"250 ok", b"354 go on", b"354 once more", b"250 queued as 7"),
        (b"250 ok", b"250 ok", b"354 go on", b"354 once more\r\n250 queued as 7"),
        (b"250 ok", b"250 ok", b"354 go on", b"399 what"),
        (b"250 ok", b"354 go on", b"250 ok", b"250 ok"),
        (b"354 go on", b"250 ok", b"250 ok", b"354 go on"),
        (b"250 ok", b"250 ok", b"354 go on", b"150 wait", b"250 queued as 7"),
        (b"250 ok", b"250 ok", b"354 go on", b"650 strange"),
    ],
)
async def test_D8_a_reply_out_of_step_is_no_refusal(replies: tuple[bytes, ...], extensions: tuple[str, ...]) -> None:
    """The server may have accepted the mail, and its next reply would be taken for that to another command."""
    written = Written(*extensions)
    with pytest.raises(Broken):
        await written.send(*(reply + b"\r\n" for reply in replies))
    assert not written.conversation.is_usable
    assert b"RSET\r\n" not in written.lines


@pytest.mark.parametrize("reset", [b"354 go on", b"554 no"])
async def test_D8_a_connection_that_cannot_be_reset_is_not_used_again(reset: bytes) -> None:
    written = Written("pipelining")
    replies = (b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n", b"452 full\r\n", reset + b"\r\n")
    with pytest.raises(NegativeReply, match="452 full"):
        await written.send(*replies)
    assert written.lines[-1] == b"RSET\r\n"
    assert not written.conversation.is_usable


@pytest.mark.parametrize("line", [b"250-\r\n", b"250-\n", b"250-x\r\n"])
@pytest.mark.parametrize("at_once", [1, 1_000])
async def test_D8_a_reply_of_short_lines_has_an_end(line: bytes, at_once: int) -> None:
    """Also if its lines have no text: what is kept of them takes memory all the same."""
    written = Written()
    received = 0
    while written.conversation.is_usable:
        written.conversation.data_received(line * at_once)
        received += at_once
        assert received < 20_000, "it is read without a limit"
    with pytest.raises(Broken, match="a reply that does not end"):
        await written.send()
