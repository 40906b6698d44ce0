"""Orders the changes of one subscription that Stripe reports within one second.

Times have whole seconds, and these events have the same type. Each says which status it changed, so they form a chain:
a change begins with the status at which the one before it ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, permutations

from schemas.figures import Fact, FactKind

_MOST = 6
"""Changes of one subscription in one second. More are left in the order of their ids."""


def chained(facts: Sequence[Fact]) -> list[Fact]:
    """Returns the facts, which are sorted by second, rank and id, with each second's chains in order."""
    found: list[Fact] = []
    for _, together in groupby(facts, key=lambda fact: (fact.created, fact.rank)):
        group = list(together)
        if len(group) == 1:
            found += group
            continue
        for kind, subject in dict.fromkeys((fact.kind, fact.subject) for fact in group):
            same = [fact for fact in group if (fact.kind, fact.subject) == (kind, subject)]
            found += _chain(same) if kind is FactKind.SUBSCRIPTION else same
    return found


def _chain(changes: Sequence[Fact]) -> Iterable[Fact]:
    if not 1 < len(changes) <= _MOST or not any("was" in change.data for change in changes):
        return changes
    return max(permutations(changes), key=_links)  # of equal ones the first: in the order of the ids


def _links(changes: Sequence[Fact]) -> int:
    """How often a change begins where the one before it ended."""
    starts = [change.data.get("was", change.data["status"]) for change in changes[1:]]
    return sum(before.data["status"] == start for before, start in zip(changes, starts, strict=False))
