"""Recognises secrets that a person made up: repeated, counted up, typed along the keyboard, placeholders, or words.

Each check passes a random secret of 32 or more characters, in hex, base32, base62 or base64: it errs less than once in
100,000 of them.
"""

from __future__ import annotations

import re
from itertools import pairwise

_ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "qwertzuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm")
_STEPS = frozenset(pair for row in _ROWS for way in (row, row[::-1]) for pair in pairwise(way))
_PART = 4
_WORDS = re.compile(r"[a-z_.-]{18}|[A-Z_.-]{18}", re.ASCII)
_JOINED_WORDS = re.compile(r"(?=[a-z]{1,17}[_.-])[a-z_.-]{18}|(?=[A-Z]{1,17}[_.-])[A-Z_.-]{18}", re.ASCII)
_PLACEHOLDER = re.compile(
    r"replace|change.?me|placeholder|example|secret|token|passw|[_.-]your|your[_.-]|here$|^<.*>$|x{6}|\.{3}$|…",
    re.IGNORECASE,
)
"""No word has four characters, except at the end or beside a separator: each such word is in one of 34,000 random
secrets of 32 letters and digits."""
_LABEL = re.compile(r"[A-Za-z_.-]+[_.-](?=.{32})", re.DOTALL)
"""What says what the secret is for, before at least 32 characters that do not: `prod-mail-token-` and 32 digits."""
_FEW = 16
"""Different characters of a secret in hex. Among few ones, two neighbours are a step more often."""


def is_made_up(text: str) -> bool:
    """Returns whether the text is a placeholder, or consists of a pattern, or of words with separators."""
    rest = _LABEL.sub("", text, count=1) if _LABEL.match(text) else text
    return is_placeholder(rest) or _JOINED_WORDS.search(rest) is not None or is_regular(rest)


def is_placeholder(text: str) -> bool:
    """Returns whether the text says that a secret is to be put there, or what it is for: `change-me`, `my-token`."""
    return _PLACEHOLDER.search(text) is not None


def is_regular(text: str) -> bool:
    """Returns whether the text repeats itself, or consists of steps: `aaaa`, `a1b2a1b2`, `4321`, `qwerty`."""
    parts = [text[at : at + _PART] for at in range(len(text) - _PART + 1)]
    if len(set(parts)) < len(parts) * 0.75:
        return True
    pairs = list(pairwise(text.lower()))
    return sum(is_step(*pair) for pair in pairs) > most_steps(len(text), len(set(text)))


def is_step(one: str, following: str) -> bool:
    """Returns whether the second character repeats or follows the first, also backwards or on a keyboard."""
    return (one, following) in _STEPS or abs(ord(one) - ord(following)) <= 1


def most_steps(length: int, different: int) -> float:
    """Returns how many steps a text of this length and with so many different characters may have."""
    return (0.7 if different <= _FEW else 0.55) * (length - 1)


def has_words(text: str) -> bool:
    """Returns whether a part has small letters only, or capitals only, over 18 characters, as words in any language.

    Only for secrets of small letters, capitals and digits, as Stripe's: one in 12 random ones in base32 has one.
    """
    return _WORDS.search(text) is not None
