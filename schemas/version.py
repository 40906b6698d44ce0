"""The version of a stored object, by which older events are detected (docs/decisions.md 6, behaviours.md D2).

A version is text that sorts. The greater of two versions wins, in any order of arrival. The state of an object is
therefore a maximum, which does not depend on order or repetition.
"""

from __future__ import annotations

from typing import NewType

Version = NewType("Version", str)

UNSEEN = Version("")
"""Older than any event."""
_TERMINAL = "1"


def version(created: int, rank: int, event_id: str, *, terminal: bool = False) -> Version:
    """Returns the version of everything that an event writes.

    `created` is Stripe's, in seconds. `rank` (0 to 99) orders the events of one second (created before updated before
    deleted). `terminal` wins over any time: a cancelled subscription never becomes active again under its id. The event
    id breaks a tie the same way in any order of arrival, until the object is fetched from Stripe (`is_tie`).
    """
    return Version(f"{int(terminal)}:{created:012d}:{rank:02d}:{event_id}")


def seconds_of(text: Version) -> int | None:
    """Returns the second (`created`) of the event that wrote a version; None for UNSEEN."""
    return int(text.split(":", 3)[1]) if text != UNSEEN else None


def is_tie(one: Version, other: Version) -> bool:
    """Returns whether two different events have the same second and rank, so that the versions do not order them.

    After a final state there are no ranks: an object that has ended may still be updated within that second.
    """
    first, second = one.split(":", 3), other.split(":", 3)
    compared = 2 if first[0] == second[0] == _TERMINAL else 3
    return one != other and first[:compared] == second[:compared]
