"""Bounds texts from outside so that every column, index, header and message key can hold them.

Postgres refuses U+0000 in text and an index entry of more than 2.7 kB; a lone surrogate has no UTF-8. What a row says
about an event passes through here, so that burying an event never fails because of the event (docs/decisions.md 4).
"""

from __future__ import annotations

import hashlib

MAX_ID_BYTES = 255
MAX_REASON_CHARACTERS = 2_000


def is_storable(text: str) -> bool:
    """Returns whether the text is printable and has 1 to 255 bytes, as each of Stripe's ids, types and versions is."""
    return text != "" and text.isprintable() and (len(text) <= MAX_ID_BYTES // 4 or len(text.encode()) <= MAX_ID_BYTES)


def bounded(text: str) -> str:
    """Returns the text if it is empty or storable, else its digest (`sha256:…`), which is the same for equal texts."""
    if text == "" or is_storable(text):
        return text
    # surrogatepass: a lone surrogate must still be hashed.
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def bounded_or_none(text: str | None) -> str | None:
    """Returns the same as `bounded`, and None for an empty text."""
    return bounded(text) if text else None


def reason_text(text: str) -> str:
    """Returns a message of at most 2,000 characters; characters that cannot be stored or printed become U+FFFD."""
    if len(text) > MAX_REASON_CHARACTERS:
        text = text[: MAX_REASON_CHARACTERS - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def traceback_text(text: str) -> str:
    """Returns a traceback whose characters can all be stored."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
