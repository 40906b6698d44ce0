"""Orders the changes of one subscription that Stripe reports within one second.

Times have whole seconds, and these events have the same type. Each says what it changed, so they form a trail: a change
begins with the state at which the one before it ended, and the first one with that at the end of the second before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from schemas.figures import Fact, FactKind

State = tuple[str, tuple[tuple[str, str], ...]]
"""A status and the rates by price, which may occur twice."""


def chained(facts: Iterable[Fact], before: Mapping[str, State]) -> list[Fact]:
    """Returns the facts of one second, which are sorted by rank and id, with the changes of each rank in order.

    `before` has the states of the subscriptions, by id, at the end of the second before.
    """
    states = dict(before)
    found: list[Fact] = []
    for _, together in groupby(facts, key=lambda fact: fact.rank):
        group = list(together)
        for kind, subject in dict.fromkeys((fact.kind, fact.subject) for fact in group):
            same = [fact for fact in group if (fact.kind, fact.subject) == (kind, subject)]
            if kind is FactKind.SUBSCRIPTION:
                same = _in_order(same, states.get(subject)) if len(same) > 1 else same
                states[subject] = _shown(same[-1])  # the changes of a greater rank begin with it
            found += same
    return found


def _in_order(changes: Sequence[Fact], before: State | None) -> list[Fact]:
    """Returns the changes as trails with as few gaps between them as possible: changes that are missing.

    With equally many, as few trails, like the subscription's row (streams/rules/same_second.py). What nothing orders is
    ordered by id.
    """
    replaced = [_replaced(change) for change in changes]
    beginnings = [_beginning(changes, before), *([before] if before in replaced else [])]
    found = [_trails(changes, beginning) for beginning in dict.fromkeys(beginnings)]
    fewest = min(found, key=lambda trails: len(trails) - int(_replaced(trails[0][0]) == before))
    return [change for trail in fewest for change in trail]


def _trails(changes: Sequence[Fact], beginning: State) -> list[list[Fact]]:
    """Returns the changes as trails, the first from this state. Where that one began is of no use for the others."""
    leaving: dict[State, list[Fact]] = {}
    for change in changes:
        leaving.setdefault(_replaced(change), []).append(change)
    found = [_trail(beginning, leaving)]
    while left := [change for changes_ in leaving.values() for change in changes_]:
        found.append(_trail(_beginning(left, None), leaving))
    return found


def _beginning(changes: Sequence[Fact], before: State | None) -> State:
    """Returns the state that more changes replaced than show, else that of the second before, else the first one's."""
    replaced = [_replaced(change) for change in changes]
    shown = [_shown(change) for change in changes]
    for state in replaced:
        if replaced.count(state) > shown.count(state):
            return state
    return before if before is not None and before in replaced else replaced[0]


def _trail(beginning: State, leaving: Mapping[State, list[Fact]]) -> list[Fact]:
    """Takes changes away, and returns them in an order in which each begins where one before it ended (Hierholzer)."""
    path: list[tuple[State, Fact | None]] = [(beginning, None)]
    found: list[Fact] = []
    while path:
        state, change = path[-1]
        if leaving.get(state):
            following = leaving[state].pop()  # the last one first, since the trail is found from its end
            path.append((_shown(following), following))
        else:
            path.pop()
            found += [change] if change is not None else []
    return found[::-1]


def state_of(status: str, rates: Iterable[Sequence[str]]) -> State:
    return str(status), tuple(sorted((price, rate) for price, rate in rates))


def _shown(change: Fact) -> State:
    return state_of(change.data["status"], change.data["rates"])


def _replaced(change: Fact) -> State:
    data = change.data
    return state_of(data.get("was", data["status"]), data.get("rates_were", data["rates"]))
