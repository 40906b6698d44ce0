"""Inside the rules: whose word holds, whatever order Stripe's events come in (design.md 6, behaviours.md D2).

A row's columns form groups, and each group takes what its greatest version says. This page ranks the words.

    same second            created < an invoice failed < closed < paid < updated < deleted      (rank)
    whatever the time      weak < partial < any event's own word < a terminal state

A weak version is what an event says of something that it is not about: the address on an invoice, the state that a
finished checkout implies. A partial version is a whole object seen in an event that changed something else of it.
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

_HINT, _GLIMPSE = "-", "."  # both sort before a digit, and so before any version that is neither


def weak(word: Version) -> Version:
    """A version that anything said by its own event overrules."""
    return Version(_HINT + word)


def partial(word: Version) -> Version:
    """A version that overrules hints, and nothing else."""
    return Version(_GLIMPSE + word)


def is_older(word: Version, stored: Version) -> bool:
    """Whether an event comes before what is stored, however weak or final either word is."""
    return stored != UNSEEN and _moment_of(word) < _moment_of(stored)


def rank_of(stored: Version) -> int | None:
    """The rank of the event that wrote this; None where none has."""
    return int(stored.split(":", 3)[2]) if stored else None


def seconds_of(stored: Version) -> int:
    """`created` of the event that wrote this; UNSEEN has none and must not be asked."""
    return int(stored.split(":", 3)[1])


def time_of(stored: Version) -> datetime:
    """The same, as UTC."""
    return datetime.fromtimestamp(seconds_of(stored), UTC)


def _moment_of(stored: Version) -> str:
    return stored.split(":", 1)[1]
