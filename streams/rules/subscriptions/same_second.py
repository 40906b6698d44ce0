"""Orders the updates that Stripe created within one second, in any order of arrival (behaviours.md D2).

`created` has a resolution of one second. An update's previous attributes say what it replaced: if that is what another
event shows, and the update shows something else, then the update is the later of the two.

The column `newest` of a subscription is `{"previous": {…}}`, or `{"tied": [{version, previous, facts}, …]}` once two
events share the second of its version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.statuses import SubscriptionStatus

Snapshot = Mapping[str, Any]

MOST = 8
"""Maximum number of events of one second that are compared."""


def latest_of(tied: Sequence[Snapshot]) -> Snapshot:
    """Returns the latest of these events; without evidence, the one that began, then the one with the greatest id."""
    return max(_candidates(tied), key=lambda one: (_has_begun(one), one["version"]))


def is_undecided(tied: Sequence[Snapshot]) -> bool:
    """Whether only Stripe knows which event is the latest, because those that may be differ."""
    first, *others = _candidates(tied)
    return any(other["facts"] != first["facts"] for other in others)


def joined(tied: Sequence[Snapshot], new: Snapshot) -> list[Snapshot]:
    """Returns the events with the new one, in the order of their ids."""
    known = {one["version"]: one for one in (new, *tied)}
    return [known[version] for version in sorted(known)][-MOST:]


def _candidates(tied: Sequence[Snapshot]) -> list[Snapshot]:
    """Returns the events that no other event follows; all of them if they follow each other in a circle."""
    open_ones = [one for one in tied if not any(_follows(other, one) for other in tied if other is not one)]
    return open_ones or list(tied)


def _follows(later: Snapshot, earlier: Snapshot) -> bool:
    """Whether `later` replaced a value that `earlier` shows."""
    shown, own = _shown(earlier), _shown(later)
    return any(
        name in shown and bool(shown[name] == value) and bool(own.get(name) != value)
        for name, value in later["previous"].items()
    )


def _shown(one: Snapshot) -> dict[str, Any]:
    """Returns what an event shows, in the form of `previous_values` in schemas/stripe/subscription.py."""
    facts = one["facts"]
    shown = {**facts, "status": facts["stripe_status"]}
    if items := facts.get("items"):
        shown["prices"] = sorted(item["price"] for item in items if item["price"] is not None)
        shown["quantity"] = items[0]["quantity"] if len(items) == 1 else None
    return shown


def _has_begun(one: Snapshot) -> bool:
    return bool(one["facts"]["stripe_status"] != SubscriptionStatus.INCOMPLETE)
