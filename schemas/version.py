"""The stale guard's measure: how new a stored object is (design.md 6, behaviours.md D2).

A version is text that sorts: whichever of two versions is greater holds, in whatever order their events came. So the
state of an object is a maximum, and a maximum does not care for order or repetition.
"""

from __future__ import annotations

from typing import NewType

Version = NewType("Version", str)

UNSEEN = Version("")
"""Older than any event."""


def version(created: int, rank: int, event_id: str, *, terminal: bool = False) -> Version:
    """The version an event gives what it writes.

    `created` is Stripe's, in seconds. `rank` (0 to 99) orders what Stripe can send within one second (created before
    updated before deleted). `terminal` beats any time: a cancelled subscription never comes back under its id. The
    event's id breaks a real tie the same way in every order; the tie itself is settled by asking Stripe (`is_tie`).
    """
    return Version(f"{int(terminal)}:{created:012d}:{rank:02d}:{event_id}")


def is_tie(one: Version, other: Version) -> bool:
    """Whether two different events claim the same second and rank, so that only Stripe knows which came last."""
    return one != other and one.split(":", 3)[:3] == other.split(":", 3)[:3]
