"""Decides which event wins when several write the same columns, in any arrival order (docs/decisions.md 6, D2).

A row's columns form groups, and each group has the values of the greatest version. This module orders the versions:

    within one second      created < an invoice failed < closed < paid < updated < deleted      (rank)
    whatever the time      weak < partial < an event about the object itself < a terminal state

After a terminal state, events of one second have no rank: an object that has ended may still be updated.

A weak version comes from an event about another object: the address on an invoice, the status that a completed checkout
implies. A partial version comes from an event that contains the whole object but changed other fields of it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.version import UNSEEN, Version

SUBSCRIPTION_CREATED = 10
FIRST_INVOICE_FAILED = 29
INVOICE_FAILED = 30
INVOICE_CLOSED = 35
INVOICE_PAID = 40
SUBSCRIPTION_UPDATED = 50
SUBSCRIPTION_DELETED = 90

WEAK, _PARTIAL = "-", "."  # both sort before a digit, and so before a version without a prefix


def weak(version: Version) -> Version:
    """The version for data from an event about another object. Any event about the object itself overrules it."""
    return Version(WEAK + version)


def partial(version: Version) -> Version:
    """The version for fields that an event contains but did not change. It overrules weak and older partial ones."""
    return Version(_PARTIAL + version)


def is_partial(version: Version) -> bool:
    """Whether the version is from `partial`."""
    return version.startswith(_PARTIAL)


def is_older(version: Version, stored: Version) -> bool:
    """Whether an event was created before the stored one, whether or not either is weak, partial or terminal."""
    return stored != UNSEEN and _moment_of(version) < _moment_of(stored)


def rank_of(stored: Version) -> int | None:
    """The rank of the event that wrote this version; None for UNSEEN."""
    return int(stored.split(":", 3)[2]) if stored else None


def seconds_of(stored: Version) -> int:
    """`created` of the event that wrote this version, in epoch seconds. Do not pass UNSEEN."""
    return int(stored.split(":", 3)[1])


def time_of(stored: Version) -> datetime:
    """`created` of the event that wrote this version, in UTC. Do not pass UNSEEN."""
    return datetime.fromtimestamp(seconds_of(stored), UTC)


def _moment_of(stored: Version) -> str:
    return stored.split(":", 1)[1]
