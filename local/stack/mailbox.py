"""Receives e-mail on a developer's machine: an SMTP server on loopback that stores each message as one file.

`python -m local.stack.mailbox --port N --dir DIR`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
import uuid
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

MAX_MESSAGE_BYTES = 10 * 1024 * 1024
_HOST = "127.0.0.1"


def parse(content: bytes) -> EmailMessage:
    """Parse the bytes of one message, with decoded headers (`policy.default`)."""
    message = BytesParser(policy=policy.default).parsebytes(content)
    if not isinstance(message, EmailMessage):
        raise TypeError("the default policy must create EmailMessage")
    return message


def read_mailbox(folder: Path) -> list[EmailMessage]:
    """Return every message in `folder` in the order of arrival; none if the folder does not exist yet."""
    return [parse(path.read_bytes()) for path in sorted(folder.glob("*.eml"))]


def store(folder: Path, content: bytes) -> Path:
    """Write one message under a name that sorts by arrival. A reader sees the complete file or none."""
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    draft = folder / f"{name}.part"
    draft.write_bytes(content)
    return draft.rename(folder / f"{name}.eml")


def content_of(envelope: Envelope) -> bytes:
    """Return the bytes of the message as received."""
    content = envelope.original_content
    if content is None:
        raise ValueError("DATA without content")
    return content


class _Keeper:
    """aiosmtpd handler: answers 250 only after the file is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        await asyncio.to_thread(store, self._folder, content_of(envelope))
        return "250 2.0.0 kept"


async def serve(folder: Path, port: int) -> None:
    """Store mail in an existing folder until SIGTERM or SIGINT. Raises OSError if the port is in use."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def session() -> SMTP:
        return SMTP(_Keeper(folder), hostname="mailbox.localhost", data_size_limit=MAX_MESSAGE_BYTES, loop=loop)

    server = await loop.create_server(session, _HOST, port)
    async with server:
        await stop.wait()


def main(argv: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="local.stack.mailbox", description="Store each message as a file in DIR.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    options = parser.parse_args(argv)
    os.umask(0o077)  # mails contain personal data
    options.dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(options.dir, options.port))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
