"""Orders the updates of an object that Stripe created within one second, in any order of arrival (behaviours.md D2).

`created` has a resolution of one second. An update's previous attributes say what it replaced: with them in place, its
object is the one that the update before it shows. So the latest update is the end of a chain of all of them. If an
update is missing, it is one that replaced nothing of another's.

A row keeps, in its column `newest`, what later events of the same second need: `{"previous": {…}}` of the event of its
version, or `{"tied": [{version, previous, facts}, …]}` once two events share that second. Values are JSON. An event's
id says nothing about its time. So once there were more than MOST, those that are left cannot decide: `is_cut`.

Of a change and its reversal each replaced what the other shows: their chain has two beginnings. The state before the
second says which of them is the first, if the row keeps it (streams/rules/subscriptions/earlier_state.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.version import Version, is_tie

Snapshot = Mapping[str, Any]
"""What one event says: its `version`, the `previous` values of what it changed, and the `facts` that it shows."""

Shown = Callable[[Snapshot], Mapping[str, Any]]

MOST = 8
"""Maximum number of events of one second that are compared. If there were more, only Stripe knows the latest."""


def facts_of(one: Snapshot) -> Mapping[str, Any]:
    """Returns what an event shows, under the names of its `previous` values."""
    facts: Mapping[str, Any] = one["facts"]
    return facts


def settled(
    entry: Mapping[str, Any], stored: Version, facts: Mapping[str, Any], new: Snapshot
) -> tuple[Snapshot, dict[str, Any]] | None:
    """Returns what counts after a new event, and the new entry of `newest`; None if the event is older.

    `entry` is the entry so far, `stored` and `facts` are the version and the values of the row.
    """
    if is_tie(stored, new["version"]):
        tied = tied_with(entry, {"version": stored, "facts": facts}, new)
        return latest_of(tied), {"tied": tied}
    if new["version"] > stored:
        return new, {"previous": new["previous"]} if new["previous"] else {}
    return None


def tied_with(entry: Mapping[str, Any], stored: Snapshot, new: Snapshot) -> list[Snapshot]:
    """Returns the events of the second, in the order of their ids. `stored` is the row's only one so far."""
    tied = entry.get("tied") or [{**stored, "previous": entry.get("previous", {})}]
    return bounded({one["version"]: one for one in (new, *tied)})


def bounded(known: Mapping[Version, Snapshot]) -> list[Snapshot]:
    """Returns the events of one second in the order of their ids, at most MOST of them.

    If some were left out, now or before, the first one has `is_cut`.
    """
    kept = [known[version] for version in sorted(known)][-MOST:]
    if len(known) > len(kept) or any("is_cut" in one for one in known.values()):
        kept[0] = {**kept[0], "is_cut": True}
    return kept


def latest_of(
    tied: Sequence[Snapshot],
    shown: Shown = facts_of,
    is_likely: Callable[[Snapshot], tuple[bool, ...]] = lambda _: (),
    before: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Returns the latest event; if several may be, the likeliest one, then the one with the greatest id.

    `before` is what the object showed before the second, in the form of `shown`, as far as that is known.
    """
    return max(candidates_of(tied, shown, before), key=lambda one: (is_likely(one), one["version"]))


def is_undecided(tied: Sequence[Snapshot], shown: Shown = facts_of) -> bool:
    """Whether only Stripe knows which event is the latest: those that may be differ, or some were left out."""
    if not tied:
        return False
    if "is_cut" in tied[0]:
        return True
    first, *others = candidates_of(tied, shown)
    return any(other["facts"] != first["facts"] for other in others)


def candidates_of(
    tied: Sequence[Snapshot], shown: Shown = facts_of, before: Mapping[str, Any] | None = None
) -> list[Snapshot]:
    """Returns the events that may be the latest one.

    Of events that replaced each other in a circle that is each of them, unless the state `before` them is known.
    """
    states = [shown(one) for one in tied]
    if ends := _ends([one["previous"] for one in tied], states, before or {}):
        return [tied[at] for at in sorted(ends)]
    return [
        one
        for one, state in zip(tied, states, strict=True)
        if not any(
            _replaced(other["previous"], other_state, state)
            for other, other_state in zip(tied, states, strict=True)
            if other is not one
        )
    ] or list(tied)


def _ends(
    previous: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]], begin: Mapping[str, Any]
) -> set[int]:
    """Returns the last members of the chains in which each event begins with what the one before it shows.

    If there are chains that begin with the state `begin`, of these only.
    """
    names = {name for values in previous for name in values}
    after = [{name: state[name] for name in names if name in state} for state in states]
    before = [{**state, **values} for state, values in zip(after, previous, strict=True)]
    count = len(states)
    follows = [
        [all(before[later][name] == value for name, value in after[earlier].items() if name in before[later])
         for later in range(count)]
        for earlier in range(count)
    ]  # fmt: skip
    fits = [
        at for at in range(count)
        if begin and all(before[at].get(name, begin[name]) == begin[name] for name in names & begin.keys())
    ]  # fmt: skip
    for firsts in (fits, range(count)):
        chains = {(1 << at, at) for at in firsts}
        for _ in range(count - 1):
            chains = {
                (members | 1 << later, later)
                for members, last in chains
                for later in range(count)
                if not members >> later & 1 and follows[last][later]
            }
        if chains:
            return {last for _, last in chains}
    return set()


def _replaced(previous: Mapping[str, Any], own: Mapping[str, Any], shown: Mapping[str, Any]) -> bool:
    """Whether an event replaced a value that another event shows."""
    return any(
        name in shown and bool(shown[name] == value) and bool(own.get(name) != value)
        for name, value in previous.items()
    )
