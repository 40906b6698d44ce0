"""Keeps what a subscription showed before the second of its version, in any order of arrival (behaviours.md D2).

The column `earlier` has the events of the newest second before it, in brief: what previous attributes can name. Of a
change and its reversal within one second it says which came first (streams/rules/same_second.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.state import Subscription
from schemas.stripe.subscription import COMPARED
from schemas.version import is_tie
from streams.rules import same_second

_ITEMS = ("prices", "quantity")
_FLAGS = ("cancel_at_period_end", "pending_update")
_KEPT = (*COMPARED, *_ITEMS)


def of_second(own: Sequence[same_second.Snapshot], shown: same_second.Shown) -> list[same_second.Snapshot]:
    """Returns the column after a newer event. `own` are the events of the second of the row's version before it."""
    return [_brief(one, shown) for one in own]


def with_late(
    earlier: Sequence[same_second.Snapshot], new: same_second.Snapshot, shown: same_second.Shown
) -> Sequence[same_second.Snapshot]:
    """Returns the column after an event that is older than the row."""
    seen, known = new["version"], {one["version"]: one for one in earlier}
    if seen in known:
        return earlier
    if earlier and is_tie(earlier[0]["version"], seen):
        return same_second.bounded({**known, seen: _brief(new, shown)})
    return [_brief(new, shown)] if not earlier or seen > earlier[0]["version"] else earlier


def state_of(row: Subscription) -> dict[str, Any] | None:
    """Returns what was shown before the second, by the names of previous attributes; None if it is not known."""
    if not row.earlier or same_second.is_undecided(row.earlier):
        return None
    facts = same_second.latest_of(row.earlier)["facts"]
    return {
        name: facts.get(name, False if name in _FLAGS else None)
        for name in _KEPT
        if name in facts or name not in _ITEMS
    }


def _brief(one: same_second.Snapshot, shown: same_second.Shown) -> same_second.Snapshot:
    facts: Mapping[str, Any] = shown(one)
    brief = {name: facts[name] for name in _KEPT if facts.get(name)}
    return {**one, "facts": brief}  # with `is_cut`: those that are left of a second do not say how it ended
