"""The names that Kafka accepts for topics and group members, so that a setting is refused before a broker refuses it.

The prefix of the topics also begins the names of consumer groups, of Faust's changelog and of its local folder.
"""

from __future__ import annotations

import re

MAX_PREFIX = 100
"""Kafka allows 249 characters; the longest ending is that of a changelog of a worker that reads several streams."""
_MAX_NAME = 249
_KAFKAS = re.compile(r"[A-Za-z0-9._-]+")


def usable_prefix(given: str) -> str:
    """Returns the prefix. Raises ValueError if a topic or a group cannot have it."""
    if not _KAFKAS.fullmatch(given) or len(given) > MAX_PREFIX:
        raise ValueError(f"Kafka needs 1 to {MAX_PREFIX} of the characters a-z, A-Z, 0-9, '.', '_' and '-' here")
    return given


def usable_member(given: str) -> str:
    """Returns the name of a group's member, which may be empty. Raises ValueError for one that brokers refuse."""
    if given and (not _KAFKAS.fullmatch(given) or len(given) > _MAX_NAME or given in (".", "..")):
        raise ValueError(
            f"Kafka takes at most {_MAX_NAME} of the characters a-z, A-Z, 0-9, '.', '_' and '-', and not '.' or '..'"
        )
    return given
