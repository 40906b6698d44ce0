"""An SMTP server that accepts every mail and forgets it, so that the dispatcher's own cost is measured."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop


class SmtpConversation(asyncio.Protocol):
    """One conversation. Commands may be pipelined: their answers leave together, as RFC 2920 (3.2) asks of servers."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answers: list[bytes] = []
        self._in_data = False
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has `write` but does not subclass asyncio.WriteTransport.
        self._transport = transport  # type: ignore[assignment]
        self._say(b"220 sink ESMTP")
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            ending = b"\r\n.\r\n" if self._in_data else b"\r\n"
            line, found, rest = self._buffer.partition(ending)
            if not found:
                self._flush()
                return
            self._buffer = rest
            self._answer(line)

    def _answer(self, line: bytes) -> None:
        if self._in_data:
            self._in_data = False
            self._say(b"250 2.0.0 accepted")
            return
        match line[:4].upper():
            case b"EHLO":
                self._say(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES")
            case b"DATA":
                self._in_data = True
                self._say(b"354 go on")
            case b"QUIT":
                self._say(b"221 2.0.0 bye")
                self._flush()
                if self._transport is not None:
                    self._transport.close()
            case _:
                self._say(b"250 2.0.0 ok")

    def _say(self, answer: bytes) -> None:
        self._answers += [answer, b"\r\n"]

    def _flush(self) -> None:
        if self._transport is not None and self._answers:
            self._transport.write(b"".join(self._answers))
            self._answers.clear()


async def main(port: int) -> None:
    """Serve on loopback until SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with await loop.create_server(SmtpConversation, "127.0.0.1", port):
        await stop.wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
