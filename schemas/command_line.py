"""Writes commands for a person to copy into a shell. Ids and keys come from payloads, so they can contain anything."""

from __future__ import annotations

import shlex


def command(words: str, *values: str, **options: str) -> str:
    """Returns `billing WORDS VALUES --OPTION VALUE`. Each value is one word of a shell and is not taken for an option.

    An empty option is left out.
    """
    chosen = [_option(name, value) for name, value in options.items() if value]
    named = [shlex.quote(value) for value in values]
    if any(value.startswith("-") for value in values):
        return " ".join(["billing", words, *chosen, "--", *named])
    return " ".join(["billing", words, *named, *chosen])


def _option(name: str, value: str) -> str:
    return f"--{name}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"
