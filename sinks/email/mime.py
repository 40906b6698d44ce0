"""Writes the bytes of a mail with a text and an HTML version.

The standard library's `email` package parses and folds each header again, which took two thirds of a mail's CPU time.
Nearly all mails have short ASCII headers, except for a currency's sign in the subject, and those need no folding. For
others the package is used (message.py).
"""

from __future__ import annotations

from binascii import b2a_qp
from collections.abc import Iterable
from string import ascii_letters, digits
from typing import Protocol

LONGEST_LINE = 300
"""Header lines up to here are not folded, though 78 columns are usual: a long subject stays on one line."""


_WORD = 55
"""Most characters inside an encoded word: the line of the subject's first one has 76 then (RFC 2047, 2)."""


class EncodedMail(Protocol):
    """A mail's two versions, in quoted-printable lines."""

    @property
    def encoded_text(self) -> bytes: ...
    @property
    def encoded_html(self) -> bytes: ...


def mail_bytes(headers: Iterable[tuple[str, str]], written: EncodedMail, boundary: str) -> bytes | None:
    """Return the mail, all lines ending with CRLF, all bytes ASCII.

    Return None if a header other than the subject is not ASCII, or if one is long.

    `boundary` must contain `=_`, which never occurs in quoted-printable text.
    """
    lines = [f"{name}: {value}" for name, value in headers]
    for at, line in enumerate(lines):
        if not line.isprintable() or len(line) > LONGEST_LINE:
            return None
        if not line.isascii():
            name, _, value = line.partition(": ")
            if name != "Subject":
                return None
            lines[at] = f"{name}: {encoded(value)}"
    head = "\r\n".join(
        [*lines, "MIME-Version: 1.0", f'Content-Type: multipart/alternative; boundary="{boundary}"', "", ""]
    )
    parts = [head.encode()]
    for subtype, content in (("plain", written.encoded_text), ("html", written.encoded_html)):
        # Quoted-printable keeps lines short and ASCII, so no server extension is needed for the body.
        parts += [
            f'--{boundary}\r\nContent-Type: text/{subtype}; charset="utf-8"\r\n'
            "Content-Transfer-Encoding: quoted-printable\r\n\r\n".encode(),
            content,
            b"\r\n",
        ]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts)


def encoded(text: str) -> str:
    """Return text as encoded words of RFC 2047, one on each line. No character is split."""
    words = [""]
    for shown in map(_ENCODED.__getitem__, text):
        if len(words[-1]) + len(shown) > _WORD:
            words.append("")
        words[-1] += shown
    return "\r\n ".join(f"=?utf-8?q?{word}?=" for word in words)


def quoted_printable(text: str) -> bytes:
    """Return the text in quoted-printable, each line by itself. All lines end with CRLF, also the last one."""
    content = text.encode()
    if b"\r" in content:
        content = b"\n".join(content.splitlines())
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return b2a_qp(content.replace(b"\n", b"\r\n"))


class _Encoded(dict[str, str]):
    """Each character inside an encoded word. Those that are not ASCII are added when they occur, up to a limit."""

    def __missing__(self, character: str) -> str:
        shown = "".join(f"={byte:02X}" for byte in character.encode())
        if len(self) < 1000:
            self[character] = shown
        return shown


_ENCODED = _Encoded({character: character for character in ascii_letters + digits} | {" ": "_"})
