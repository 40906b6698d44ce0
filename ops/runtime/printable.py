"""Makes text safe for a terminal: stored text may contain control sequences that a customer has chosen."""

from __future__ import annotations

import re
import sys
from typing import Any

from schemas.json_text import dumped

_NOT_ASCII = re.compile(r"[^\x20-\x7e]")


def printable(text: str) -> str:
    """Returns the text with each unprintable character replaced by U+FFFD: controls, line breaks, text direction."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def printable_lines(text: str) -> str:
    """Returns the text as `printable` does, but keeps line breaks and expands tabs."""
    return "\n".join(printable(line) for line in text.expandtabs().split("\n"))


def to_json(value: Any, *, option: int | None = None) -> str:
    """Returns the value as one line of JSON, with unprintable characters escaped, which JSON itself does not require.

    Values that JSON does not have (paths, exceptions) are written as text.
    """
    text = dumped(value, default=str, option=option).decode()
    return text if text.isprintable() else _NOT_ASCII.sub(_escaped, text)


def error_line(command: str, message: object) -> None:
    """Writes one line to stderr that starts with the name of the command."""
    sys.stderr.write(f"billing {command}: {printable(' '.join(str(message).splitlines()))}\n")
    sys.stderr.flush()


def _escaped(found: re.Match[str]) -> str:
    if found[0].isprintable():
        return found[0]
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
